"""`pld-grid why` and `diff` as commands: what they print, and one line for each error."""

import json
from collections.abc import Callable

import pytest
from cells import finish, make_cell, make_epochs
from paper_records import table_grid

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.profile import Profile
from pld_grid.store import Store

Run = Callable[..., tuple[int, str, str]]
ROW = "MobileNet-v4 Small (conv)"


@pytest.fixture
def pair(run: Run, profile: Callable[[str], Profile]) -> list[Cell]:
    """PLD and KD in the row ROW of Table 3, finished in the default store."""
    grid = table_grid("table03", profile("digits"))
    labels = [{"student": "MobileNetV4 Conv Small", "loss": loss} for loss in ("pld", "kd")]
    cells = [e.cell for each in labels for e in grid.entries if each.items() <= e.labels.items()]
    for cell, names in zip(cells, (("top1", "top5"), ("top5", "top1")), strict=True):
        finish(Store(".pld_grid/store"), cell, epochs=make_epochs(cell.epochs, names=names))
    return cells


def test_why_number_prints_its_place_and_its_cells(run, pair):
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
        f"pld-grid run table03 --profile digits --only {pair[0].cell_id} --again\n",
        "\n  loss:\n    name: pld\n    code: revision 1\n    hyperparameters: {tau: 1.0, weights: teacher}\n",
        '\n  conventions.accuracy_epoch: "last"\n',
    ):
        assert text in out
    teacher = pair[0].teacher
    assert f"\nteacher {teacher.cell_id} ─" in out


def test_why_cell_id_prints_the_same_report(run, pair):
    whole = run("why", "table03", ROW, "PLD")[1]
    code, out, err = run("why", pair[0].cell_id[:6])
    assert (code, err) == (0, "")
    assert out.strip() and whole.endswith(out.lstrip("\n"))


def test_why_json_has_unrounded_numbers(run, pair):
    code, out, err = run("why", "table03", ROW, "Delta_KD", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    number, (pld, kd) = data["number"], data["cells"]
    (sample,) = number["samples"]
    assert [(term["sign"], term["cell_id"]) for term in sample["terms"]] == [
        (1, pair[0].cell_id),
        (-1, pair[1].cell_id),
    ]
    tops = [cell["epochs"][-1]["metrics"]["top1"] for cell in (pld, kd)]
    assert number["mean"] == tops[0] - tops[1] != 0
    assert (number["std"], number["interval"], number["n"], number["wanted"]) == (None, None, 1, 1)
    assert Cell.model_validate(pld["cell"] | {"teacher": data["teachers"][0]["cell"]}) == pair[0]
    assert {use["table"] for use in pld["uses"]} >= {"table03", "table10"}
    assert data["teachers"][0]["provenance"] is None


def test_diff_prints_fields_pairing_and_results(run, pair):
    code, out, err = run("diff", pair[0].cell_id, pair[1].cell_id[:8])
    assert (code, err) == (0, "")
    assert "\nthe specification differs in 5 fields\n" in out
    assert "\nloss.name                        pld      kd\n" in out
    assert "\na paired difference\n" in out
    data = json.loads(run("diff", pair[0].cell_id, pair[1].cell_id, "--json")[1])
    assert data["paired"] is True and data["a"]["state"] == "finished"
    assert {"path": "loss.name", "a": "pld", "b": "kd"} in data["fields"]
    assert {"path": "loss.hyperparameters.alpha", "b": 0.1} in data["fields"]
    assert "They are one cell" in run("diff", pair[0].cell_id, pair[0].cell_id)[1]


def test_diff_cell_of_another_profile_is_compared(run, pair):
    other = make_cell()
    finish(Store(".pld_grid/store"), other)
    code, out, _ = run("diff", pair[0].cell_id, other.cell_id)
    assert code == 0
    assert "only one of them has a teacher" in out
