"""`pld-grid why` and `diff` through the front door: what is printed, and one line for whatever is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import finish, make_cell, make_epochs
from rich.console import Console
from synthetic import table_grid

from pld_grid import cli
from pld_grid.profile import Profile
from pld_grid.spec import Cell
from pld_grid.store import Store

Run = Callable[..., tuple[int, str, str]]
ROW = "MobileNet-v4 Small (conv)"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `pld-grid ARGUMENTS` in an empty folder; (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("PLD_GRID_STORE", "MLFLOW_TRACKING_URI", "PLD_GRID_DATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("errors", "output"):
        monkeypatch.setattr(cli.console, name, Console(stderr=name == "errors", force_terminal=False))

    def go(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pld-grid", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return go


@pytest.fixture
def pair(run: Run, profile: Callable[[str], Profile]) -> list[Cell]:
    """PLD and KD in the row ROW of Table 3, finished in the default store."""
    grid = table_grid("table03", profile("digits"))
    labels = [{"student": "MobileNetV4 Conv Small", "loss": loss} for loss in ("pld", "kd")]
    cells = [e.cell for wanted in labels for e in grid.entries if wanted.items() <= e.labels.items()]
    for cell, names in zip(cells, (("top1", "top5"), ("top5", "top1")), strict=True):
        finish(Store(".pld_grid/store"), cell, epochs=make_epochs(cell.epochs, names=names))
    return cells


def test_why_tells_a_number_and_its_cells(run: Run, pair: list[Cell]) -> None:
    code, out, err = run("why", "table03", ROW, "PLD")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    for text in (
        f"row            Student={ROW}, Teacher=MobileNet-v4 Large (conv)\n",
        "paper          70.07\n",
        f"\n{pair[0].cell_id} ─",
        "\nstate          finished\n",
        "\ncommit         0123abc\n",
        f"\nfiles          .pld_grid/store/{pair[0].cell_id}/cell.json\n",
        f"grids/table03.yaml --profile digits --only {pair[0].cell_id} --again\n",
        "\n  loss:\n    name: pld\n    hyperparameters: {tau: 1.0, weights: teacher}\n",
        '\n  conventions.accuracy_epoch: "last"\n',
    ):
        assert text in out
    teacher = pair[0].teacher
    assert teacher is not None and f"\nteacher {teacher.cell_id} ─" in out


def test_why_of_an_id_is_the_same_account(run: Run, pair: list[Cell]) -> None:
    whole = run("why", "table03", ROW, "PLD")[1]
    code, out, err = run("why", pair[0].cell_id[:6])
    assert (code, err) == (0, "")
    assert out.strip() and whole.endswith(out.lstrip("\n"))


def test_json_has_the_numbers_in_full(run: Run, pair: list[Cell]) -> None:
    code, out, err = run("why", "table03", ROW, "Delta_KD", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    number, (pld, kd) = found["number"], found["cells"]
    (sample,) = number["samples"]
    assert [(term["sign"], term["cell_id"]) for term in sample["terms"]] == [
        (1, pair[0].cell_id),
        (-1, pair[1].cell_id),
    ]
    tops = [cell["epochs"][-1]["metrics"]["top1"] for cell in (pld, kd)]
    assert number["mean"] == tops[0] - tops[1] != 0
    assert (number["std"], number["interval"], number["n"], number["wanted"]) == (None, None, 1, 1)
    assert Cell.model_validate(pld["cell"] | {"teacher": found["teachers"][0]["cell"]}) == pair[0]
    assert {use["table"] for use in pld["uses"]} >= {"table03", "table10"}
    assert found["teachers"][0]["provenance"] is None


def test_diff_tells_fields_pairing_and_results(run: Run, pair: list[Cell]) -> None:
    code, out, err = run("diff", pair[0].cell_id, pair[1].cell_id[:8])
    assert (code, err) == (0, "")
    assert "\nthe specification differs in 5 fields\n" in out
    assert "\nloss.name                        pld      kd\n" in out
    assert "\na paired difference\n" in out
    found = json.loads(run("diff", pair[0].cell_id, pair[1].cell_id, "--json")[1])
    assert found["paired"] is True and found["a"]["state"] == "finished"
    assert {"path": "loss.name", "a": "pld", "b": "kd"} in found["fields"]
    assert {"path": "loss.hyperparameters.alpha", "b": 0.1} in found["fields"]
    assert "They are one cell" in run("diff", pair[0].cell_id, pair[0].cell_id)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("why", "table03", ROW), "a number has a row and a column: pld-grid why GRID ROW COLUMN"),
        (("why", "table3", ROW, "PLD"), '(did you mean "table03"?)'),
        (("why", "table03", "MobileNet", "PLD"), 'table03 has no row "MobileNet"; it has: '),
        (("why", "table03", ROW, "PDL"), '(did you mean "PLD"?)'),
        (("why", "table03", ROW, "PLD", "--profile", "digit"), 'unknown profile "digit"'),
        (("why", "table03", ROW, "PLD", "--store", "nosuch://x"), "store nosuch://x: "),
        (("why", "0123456789abcdef"), "no cell in store .pld_grid/store or a grid under profile digits begins with"),
        (("why", "table03"), '"table03" is no cell id: 16 hex digits, or the first 6 or more'),
        (("diff", "012345", "0123"), "no cell in store .pld_grid/store or a grid under profile digits begins with"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err
    assert not list(Path().iterdir())


def test_a_cell_of_another_profile_is_compared_too(run: Run, pair: list[Cell]) -> None:
    other = make_cell()
    finish(Store(".pld_grid/store"), other)
    code, out, _ = run("diff", pair[0].cell_id, other.cell_id)
    assert code == 0
    assert "only one of them has a teacher" in out
