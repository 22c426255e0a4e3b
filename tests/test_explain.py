"""What explains a number, a cell, and the difference of two cells, from stores that no training filled."""

import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cells import begin, finish, make_cell, make_distilled, make_epochs, make_measured, make_receipt, stop
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from synthetic import PAPER, TABLES, all_grids, own_grid, records_of, table_grid

from pld_grid import api, explain
from pld_grid.errors import InputError
from pld_grid.explain.curve import COLUMNS, curve, sampled, sparkline
from pld_grid.explain.place import find_column, find_row
from pld_grid.explain.terminal import specification
from pld_grid.grid import Entry, Grid
from pld_grid.profile import Profile
from pld_grid.report import Value, build_table
from pld_grid.report.statistics import interval
from pld_grid.spec import Cell, Dataset, Loss, Model, Optimizer, canonical_json, ledger
from pld_grid.store import Mirror, Store
from pld_grid.workspace import Workspace

Profiles = Callable[[str], Profile]
ROW = "MobileNet-v4 Small (conv)"
SERVER = "http://mlflow.example:5000"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty store in an empty folder, mirrored by a server that nobody asks."""
    monkeypatch.chdir(tmp_path)
    for name in ("PLD_GRID_STORE", "MLFLOW_TRACKING_URI", "PLD_GRID_DATA"):
        monkeypatch.delenv(name, raising=False)
    return Workspace("results", SERVER)


def entries(grid: Grid, **labels: Any) -> list[Entry]:
    return [e for e in grid.entries if all(e.labels.get(name) == value for name, value in labels.items())]


def small(grid: Grid, loss: str) -> list[Cell]:
    """The cells of a loss in the row ROW of Table 3, by seed."""
    return [e.cell for e in entries(grid, student="MobileNetV4 Conv Small", loss=loss)]


def text_of(show: Callable[[Any, Console], None], found: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_a_number_leads_to_its_cells_their_teacher_and_the_paper(profile: Profiles, workspace: Workspace) -> None:
    grid, store = table_grid("table03", profile("digits"), seeds=3), Store(workspace.store)
    cells = small(grid, "pld")
    for cell in cells:
        epochs = make_epochs(cell.epochs, names=("top1", f"of seed {cell.seed}"))
        finish(store, cell, epochs=epochs[: cell.epochs - cell.seed])
    found = explain.why("table03", ROW, "pld", workspace=workspace, seeds=3)
    number = found.number
    assert number is not None
    assert (number.table, number.column) == ("table03", "PLD")
    assert number.row == f"Student={ROW}, Teacher=MobileNet-v4 Large (conv)"
    tops = [make_epochs(cell.epochs - cell.seed, names=("top1",))[-1].metrics["top1"] for cell in cells]
    assert number.value.numbers == tops and len(set(tops)) == 3
    assert number.interval == interval(tops)
    assert number.value.paper == "70.07"
    assert [account.cell for account in found.accounts] == cells
    assert [account.cell for account in found.teachers] == [cells[0].teacher]
    assert [account.state for account in (*found.accounts, *found.teachers)] == ["finished"] * 3 + ["not run"]


def test_a_difference_has_both_sides_and_says_what_is_missing(profile: Profiles, workspace: Workspace) -> None:
    grid, store = table_grid("table03", profile("digits"), seeds=2), Store(workspace.store)
    (pld, _), (kd, lost) = small(grid, "pld"), small(grid, "kd")
    finish(store, pld)
    finish(store, kd)
    stop(store, lost, "failed", "out of memory")
    found = explain.why("table03", ROW, "Delta_KD", workspace=workspace, seeds=2)
    assert found.number is not None and found.number.interval is None
    assert [account.cell.cell_id for account in found.accounts] == [
        c.cell_id for pair in zip(small(grid, "pld"), small(grid, "kd"), strict=True) for c in pair
    ]
    told = text_of(explain.print_explanation, found)
    assert f"+  {pld.cell_id}" in told and f"-  {lost.cell_id}" in told
    assert "1 of 2" in told and "seed 1: failed: out of memory" in told
    # The first student and the teacher are told whole, the others by what they have otherwise.
    assert told.count("spec_version: 1") == 2
    others = told.split(f"that of {pld.cell_id}, but\n")[1:]
    assert [text.split("\n\n")[0].split("\n") for text in others] == [
        ["    loss.name: kd", "    loss.hyperparameters.tau: 2.0", "    without loss.hyperparameters.weights",
         "    loss.hyperparameters.alpha: 0.1", "    loss.hyperparameters.divergence: forward"],
        ["    seed: 1"],
        ["    loss.name: kd", "    loss.hyperparameters.tau: 2.0", "    without loss.hyperparameters.weights",
         "    loss.hyperparameters.alpha: 0.1", "    loss.hyperparameters.divergence: forward", "    seed: 1"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_number_of_every_table_is_found_by_its_row_and_column(name: str, profile: Profiles) -> None:
    grid = table_grid(name, profile("digits"))
    table = build_table(grid, records_of([grid]), PAPER)
    for row in table.rows:
        assert find_row(grid, table, row.name) is row
        assert find_row(grid, table, row.name.upper()) is row
        for header, cell in zip(table.headers, row.cells, strict=True):
            if isinstance(cell, Value):
                assert find_column(table, row, header) == (header, cell)


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("table03", "ResNet-50", "Student=ResNet-50, Teacher=ResNet-152"),
        ("table03", "vit-large", "Student=ViT-Small, Teacher=ViT-Large"),
        ("table03", "Student=ViT-Small", "Student=ViT-Small, Teacher=ViT-Large"),
        # The grid's own name of what the table calls "ViT-Small".
        ("table03", "ViT-Small/16", "Student=ViT-Small, Teacher=ViT-Large"),
        ("table01", "KD, alpha=0.1", "Method=KD, alpha=0.10, tau=2.00"),
        ("table01", "0, kd", "Method=KD, alpha=0.00, tau=2.00"),
        ("table01", "LS (eps=0.1)", "Method=LS (eps=0.1)"),
        ("table05", "300", "Epochs=300"),
        ("table05", "Delta (300-100)", "Epochs=Delta (300-100)"),
    ],
)
def test_a_row_is_found_by_any_texts_that_only_it_has(name: str, text: str, row: str, profile: Profiles) -> None:
    grid = table_grid(name, profile("digits"))
    assert find_row(grid, build_table(grid, {}, PAPER), text).name == row


def test_a_rows_own_name_is_enough_where_another_row_has_all_of_it(profile: Profiles) -> None:
    grid = own_grid(
        "cells: {teacher: ResNet-152, student: ResNet-50, loss: pld, hyperparameters: {pld: {tau: [1, 2]}}}\n"
        "table:\n  rows: [loss, tau]\n  columns:\n    - {header: Loss, axis: loss}\n"
        "    - {header: tau, axis: tau, only: {tau: 2.0}}\n    - {header: Top-1, metric: top1}\n",
        profile("digits"),
    )
    table = build_table(grid, {})
    assert [row.name for row in table.rows] == ["Loss=pld", "Loss=pld, tau=2.00"]
    assert [find_row(grid, table, text) for text in ("Loss=pld", "pld, tau=2", "tau=1")] == [
        table.rows[0], table.rows[1], table.rows[0]
    ]  # fmt: skip
    with pytest.raises(InputError, match=r'^"pld" is 2 rows of own: "Loss=pld"; "Loss=pld, tau=2\.00"; name one'):
        find_row(grid, table, "pld")


@pytest.mark.parametrize(
    ("name", "row", "column", "said"),
    [
        ("table01", "KD", "Top-1", '"KD" is 2 rows of table01: "Method=KD, alpha=0.00, tau=2.00"; "Method=KD, alpha'),
        ("table01", "tau=1", "Top-1", '"tau=1" is 2 rows of table01: '),
        ("table03", "ResNet-51", "PLD", '(did you mean "ResNet-50"?)'),
        (
            "table03",
            "ResNet-50, ViT-Large",
            "PLD",
            'table03 has no row "ResNet-50, ViT-Large"; it has: "Student=ViT-Sm',
        ),
        ("table03", "ResNet-50", "PDL", 'table03 has no column "PDL"; valid: '),
        ("table03", "ResNet-50", "PDL", '(did you mean "PLD"?)'),
        ("table03", "ResNet-50", "Student", 'column "Student" of table03 holds no numbers; valid: '),
        ("table3", "ResNet-50", "PLD", '(did you mean "table03"?)'),
        ("nowhere.yaml", "ResNet-50", "PLD", "nowhere.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_place_is_one_line_with_what_there_is(
    name: str, row: str, column: str, said: str, workspace: Workspace
) -> None:
    with pytest.raises(InputError) as caught:
        explain.why(name, row, column, workspace=workspace)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(workspace.store).exists()


def test_a_grid_of_ones_own_is_found_by_its_path_and_its_table_among_the_uses(
    profile: Profiles, workspace: Workspace
) -> None:
    Path("mine").mkdir()
    Path("mine/own.yaml").write_text(
        "cells: {teacher: MobileNetV4 Conv Large, student: MobileNetV4 Conv Small, loss: [kd, pld]}\n"
        "table: {rows: [loss], columns: [{header: Loss, axis: loss}, {header: Top-1, metric: top1}]}\n"
    )
    found = explain.why("mine/own.yaml", "pld", "Top-1", workspace=workspace)
    assert [account.cell for account in found.accounts] == small(table_grid("table03", profile("digits")), "pld")
    uses = {use.table: use for use in found.accounts[0].uses}
    assert uses["own"] == explain.Use("own", "Loss=pld", ("Top-1",))
    assert {"table03", "table10"} <= set(uses)
    assert "run mine/own.yaml" in found.accounts[0].rerun


def test_grids_that_the_profile_cannot_read_are_named(workspace: Workspace) -> None:
    Path("grids").mkdir()
    Path("grids/odd.yaml").write_text("cells: {student: no-such-net, loss: ce}\n")
    found = explain.why("table03", ROW, "PLD", workspace=workspace)
    assert 'unknown model "no-such-net"' in found.skipped["odd"]
    assert "odd" in text_of(explain.print_explanation, found).splitlines()[-1]
    with pytest.raises(InputError, match="unknown model"):
        explain.why("odd", ROW, "PLD", workspace=workspace)


# -- cells -----------------------------------------------------------------------------------------------------------


def test_uses_are_those_of_the_tables_themselves(profile: Profiles, workspace: Workspace) -> None:
    grids = all_grids(profile("digits"))
    library = explain.Library("digits", workspace)
    expected: dict[str, set[tuple[str, str, str]]] = {cell.cell_id: set() for grid in grids for cell in grid.cells()}
    for grid in grids:
        for row in build_table(grid, {}, PAPER).rows:
            for header, value in zip(grid.layout.columns, row.cells, strict=True):
                if isinstance(value, Value) and not value.fact:
                    for term in (term for sample in value.samples for term in sample.terms):
                        expected[term.cell_id].add((grid.name, row.name, header.header))
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    shared = 0
    for cell_id, cell in cells.items():
        uses = [use for use in library.uses(cell) if use.table in TABLES]
        found = {(use.table, use.row, column) for use in uses for column in use.columns}
        assert found == expected[cell_id]
        assert {use.table for use in uses} == {grid.name for grid in grids if cell in list(grid.cells())}
        shared += len({use.table for use in uses}) > 1
        # The same under a seed that no grid has.
        assert {use.row for use in library.uses(cell.model_copy(update={"seed": 7}))} <= {use.row for use in uses}
    assert shared > 10


def test_a_use_is_found_without_looking_at_every_cell(
    profile: Profiles, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred seeds that took a minute."""
    cells = small(table_grid("table03", profile("digits"), seeds=40), "kd")
    library = explain.Library("digits", workspace, seeds=40)
    first = list(library.uses(cells[0]))
    under, asked = Cell.id_under, []
    monkeypatch.setattr(Cell, "id_under", lambda cell, seed: asked.append(seed) or under(cell, seed))
    assert len(cells) == 40
    assert all(list(library.uses(cell)) == first for cell in cells)
    assert len(asked) < 4 * len(cells) * len(library.shelves)


def test_an_account_has_run_files_provenance_and_what_the_paper_leaves_open(
    profile: Profiles, workspace: Workspace
) -> None:
    grid, store = table_grid("table03", profile("digits")), Store(workspace.store)
    (cell,) = small(grid, "pld")
    receipt = finish(store, cell)
    mirror = {"tracking_uri": f"{SERVER}#pld_grid", "run_id": "abc", "epochs": cell.epochs, "state": "finished"}
    store.write_mirror(cell.cell_id, Mirror.model_validate(mirror | {"experiment_id": "7"}))
    (account,) = explain.why_cell(cell.cell_id[:6].upper(), workspace=workspace).accounts
    assert account.cell == cell and account.finished
    assert (account.provenance, account.parameters) == (receipt.provenance, receipt.parameters)
    assert account.epochs == receipt.epochs
    assert account.run is not None and account.run.link == f"{SERVER}/#/experiments/7/runs/abc"
    assert all(Path(path).is_file() for path in account.files)
    assert {Path(path).name for path in account.files} == {
        "cell.json", "mirror.json", "receipt.json", "weights.safetensors"
    }  # fmt: skip
    # A student from scratch has no published weights to choose.
    asked = [entry.field for entry in ledger() if not entry.field.startswith("student.pretrained")]
    assert [choice.field for choice in account.ledger] == asked
    assert {c.field: c.value for c in account.ledger}["conventions.accuracy_epoch"] == "last"


def test_a_run_in_another_mlflow_is_none_and_one_in_a_database_is_served_by_ui(
    profile: Profiles, workspace: Workspace
) -> None:
    store, (cell,) = Store(workspace.store), small(table_grid("table03", profile("digits")), "pld")
    finish(store, cell)
    mirror = {"tracking_uri": "http://other#pld_grid", "run_id": "abc", "epochs": 1, "state": "finished"}
    store.write_mirror(cell.cell_id, Mirror.model_validate(mirror))
    assert explain.why_cell(cell.cell_id, workspace=workspace).accounts[0].run is None
    local = Workspace(workspace.store, "sqlite:///mlflow.db")
    store.write_mirror(cell.cell_id, Mirror.model_validate(mirror | {"tracking_uri": "sqlite:///mlflow.db#pld_grid"}))
    found = explain.why_cell(cell.cell_id, workspace=local)
    assert "http://127.0.0.1:5000/#/runs/abc (served by `pld-grid ui`)" in text_of(explain.print_explanation, found)


def test_results_set_aside_are_named(profile: Profiles, workspace: Workspace) -> None:
    store, (cell,) = Store(workspace.store), small(table_grid("table03", profile("digits")), "pld")
    finish(store, cell)
    aside = Path(workspace.store) / f"{cell.cell_id}.replaced-0a1b2c3d"
    (Path(workspace.store) / cell.cell_id).rename(aside)
    (account,) = explain.why_cell(cell.cell_id, workspace=workspace).accounts
    assert (account.state, account.files, account.earlier) == ("not run", (), (str(aside),))


def test_checkpoints_and_the_epochs_so_far_of_a_cell_that_is_not_finished(
    profile: Profiles, workspace: Workspace
) -> None:
    store, (cell,) = Store(workspace.store), small(table_grid("table03", profile("digits")), "pld")
    begin(store, cell, 2)
    (account,) = explain.why_cell(cell.cell_id, workspace=workspace).accounts
    assert (account.state, account.provenance, len(account.epochs)) == ("unfinished", None, 2)
    assert f"results/{cell.cell_id}/checkpoints/000002.pt" in account.files
    assert "--again" not in account.rerun
    assert "at epoch 2" in text_of(explain.print_explanation, explain.why_cell(cell.cell_id, workspace=workspace))


@pytest.mark.parametrize("seed", [0, 3])
def test_the_command_for_a_cell_names_a_grid_that_has_it(seed: int, profile: Profiles, workspace: Workspace) -> None:
    store, (cell,) = Store(workspace.store), small(table_grid("table03", profile("digits")), "pld")
    cell = cell.model_copy(update={"seed": seed})
    finish(store, cell)
    (account,) = explain.why_cell(cell.cell_id, workspace=workspace).accounts
    words = shlex.split(account.rerun)
    assert words[:2] == ["pld-grid", "run"]
    assert words[-3:] == ["--only", cell.cell_id, "--again"]
    options = dict(zip(words[3:-1:2], words[4:-1:2], strict=True))
    assert options["--store"] == "results" and options["--tracking-uri"] == SERVER
    seeds = int(options["--seeds"]) if seed else None
    assert ("--seeds" in options) == bool(seed)
    assert cell in list(api.load_grid(words[2], options["--profile"], seeds=seeds).cells())


def test_a_cell_that_no_grid_needs_is_explained_all_the_same(workspace: Workspace) -> None:
    cell = make_distilled()
    finish(Store(workspace.store), cell)
    found = explain.why_cell(cell.cell_id, workspace=workspace)
    (account,), (teacher,) = found.accounts, found.teachers
    assert (account.cell, account.uses, account.rerun) == (cell, (), "")
    assert (teacher.cell, teacher.state) == (cell.teacher, "not run")
    assert "no grid under digits needs it" in text_of(explain.print_explanation, found)


def test_a_measurement_has_a_result_and_no_curve(workspace: Workspace) -> None:
    cell = make_measured()
    finish(Store(workspace.store), cell, weights=None)
    (account,) = explain.why_cell(cell.cell_id, workspace=workspace).accounts
    assert account.last is not None and account.last.epoch == 0
    assert "student.pretrained.tag" in {choice.field for choice in account.ledger}
    told = text_of(explain.print_explanation, explain.why_cell(cell.cell_id, workspace=workspace))
    assert f"top-1 {account.last.metrics['top1']:.2f} %" in told
    assert "\ncurve" not in told and "\nspecification" in told


def test_an_id_must_name_one_cell(workspace: Workspace) -> None:
    store = Store(workspace.store)
    cell = make_cell()
    finish(store, cell)
    twin = cell.cell_id[:8] + "0" * 8
    (Path(workspace.store) / twin).mkdir()
    for text, said in (
        ("12345", "is no cell id: 16 hex digits, or the first 6 or more"),
        ("table03", '"table03" is no cell id'),
        (cell.cell_id[:8], f"begin with {cell.cell_id[:8]}: "),
        ("0" * 16, "begins with 0000000000000000"),
        (twin, f"cell {twin} in store results is damaged, or of another version of pld_grid"),
    ):
        with pytest.raises(InputError) as caught:
            explain.why_cell(text, workspace=workspace)
        assert said in str(caught.value)
    assert explain.why_cell(cell.cell_id, workspace=workspace).accounts[0].cell == cell


def test_nothing_is_cut_however_narrow_the_place(profile: Profiles, workspace: Workspace) -> None:
    grid, store = table_grid("table03", profile("digits")), Store(workspace.store)
    (pld,), (kd,) = small(grid, "pld"), small(grid, "kd")
    for cell in (pld, kd):
        finish(store, cell)
    found = explain.why("table03", ROW, "Delta_KD", workspace=workspace)
    wide = text_of(explain.print_explanation, found, 1000)
    narrow = text_of(explain.print_explanation, found, 20)
    whole = [line for line in narrow.splitlines() if not line.endswith("─")]
    assert whole == [line for line in wide.splitlines() if not line.endswith("─")]
    assert all(account.rerun in narrow for account in found.accounts)
    assert all(path in narrow for account in found.accounts for path in account.files)
    compared = explain.diff(pld.cell_id, kd.cell_id, workspace=workspace)
    assert text_of(explain.print_difference, compared, 20) == text_of(explain.print_difference, compared, 1000)


# -- curves ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 1000), st.integers(2, 80))
def test_sampled_places_are_few_and_keep_both_ends(count: int, most: int) -> None:
    places = sampled(count, most)
    assert len(places) == min(count, most)
    assert (places[0], places[-1]) == (0, count - 1)
    assert places == sorted(set(places))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_bars_are_as_high_as_their_numbers(numbers: list[float]) -> None:
    bars = sparkline(numbers)
    assert len(bars) == len(numbers)
    ordered = sorted(range(len(numbers)), key=lambda place: numbers[place])
    assert [bars[place] for place in ordered] == sorted(bars)
    assert bars[ordered[0]] == "▁"


def test_a_curve_shows_as_many_epochs_as_fit_and_always_the_last() -> None:
    bars, epochs, tops = curve(make_epochs(300))
    assert len(bars) == 60
    assert len(epochs.split()) == len(tops.split()) == COLUMNS + 1
    assert epochs.split()[-1] == "300"
    assert tops.split()[-1] == f"{make_epochs(300)[-1].metrics['top1']:.2f}"
    assert curve(make_epochs(1)) == curve(()) == []


# -- two cells -------------------------------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.booleans(), st.integers(0, 3), st.sampled_from([0.0, 1.0, 0.5]), st.sampled_from(["a", "b"]),
    st.lists(st.integers(0, 2), max_size=2), st.none(),
)  # fmt: skip
_OPTIONS = st.dictionaries(st.sampled_from("xyz"), st.one_of(_VALUES, st.dictionaries(st.just("deep"), _VALUES)))
_CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "student": st.builds(Model, architecture=st.sampled_from(["resnet18", "resnet34"]), options=_OPTIONS),
    "loss": st.builds(
        Loss,
        name=st.sampled_from(["kd", "pld"]),
        hyperparameters=st.dictionaries(st.sampled_from(["alpha", "tau", "weights"]), st.sampled_from([0.5, 1.0, "t"])),
        standardization=st.sampled_from(["none", "both"]),
    ),
    "optimizer": st.builds(
        Optimizer,
        name=st.sampled_from(["lamb", "adamw"]),
        learning_rate=st.sampled_from([0.1, 1.0]),
        options=st.dictionaries(st.sampled_from(["betas", "eps"]), st.sampled_from([1, 1.0, True, [0.9, 0.999], None])),
    ),
    "epochs": st.integers(1, 3),
    "seed": st.integers(0, 2),
}
_STUDENTS = st.fixed_dictionaries({}, optional=_CHANGES).map(lambda changes: make_cell(**changes))
CELLS = st.tuples(_STUDENTS, st.none() | _STUDENTS).map(
    lambda pair: pair[0].model_copy(update={"teacher": pair[1]}) if pair[1] is not None else pair[0]
)


def _dump(cell: Cell, other: Cell) -> dict[str, Any]:
    """A cell as `differing` reads it beside another one: a teacher that only one has is its id."""
    fields = cell.model_dump(mode="json")
    if cell.teacher is not None:
        fields["teacher"] = cell.teacher.cell_id if other.teacher is None else _dump(cell.teacher, other.teacher)
    return fields


def _replaced(fields: dict[str, Any], difference: explain.FieldDifference) -> None:
    """Puts the second value of a difference where the first one must be."""
    *parts, last = difference.path.split(".")
    for part in parts:
        fields = fields[part]
    if difference.a is explain.ABSENT:
        assert last not in fields
    else:
        assert canonical(fields[last]) == canonical(difference.a) != canonical(difference.b)
    if difference.b is explain.ABSENT:
        del fields[last]
    else:
        fields[last] = difference.b


def canonical(value: Any) -> str:
    return repr(value) if not isinstance(value, dict) else repr(sorted((k, canonical(v)) for k, v in value.items()))


@given(CELLS, CELLS)
def test_the_differences_of_two_cells_are_all_and_nothing_else(a: Cell, b: Cell) -> None:
    found = list(explain.differing(a, b))
    assert (found == []) == (a.cell_id == b.cell_id)
    paths = [difference.path for difference in found]
    assert len(set(paths)) == len(paths)
    assert not any(other.startswith(f"{path}.") for path in paths for other in paths)
    fields, wanted = _dump(a, b), _dump(b, a)
    for difference in found:
        _replaced(fields, difference)
    assert canonical(fields) == canonical(wanted)
    back = {d.path: (canonical(d.b), canonical(d.a)) for d in explain.differing(b, a)}
    assert back == {d.path: (canonical(d.a), canonical(d.b)) for d in found}


@given(CELLS)
def test_the_specification_is_the_whole_cell(cell: Cell) -> None:
    read = yaml.safe_load(specification(cell))
    assert read.pop("teacher") == (cell.teacher.cell_id if cell.teacher is not None else None)
    assert Cell.model_validate(read | {"teacher": cell.teacher}).cell_id == cell.cell_id
    assert canonical_json(Cell.model_validate(read)) == canonical_json(
        Cell.model_validate(cell.model_dump(exclude={"teacher"}))
    )


def test_two_losses_under_one_seed_are_a_pair(profile: Profiles, workspace: Workspace) -> None:
    grid, store = table_grid("table03", profile("digits"), seeds=2), Store(workspace.store)
    (pld, _), (kd, other) = small(grid, "pld"), small(grid, "kd")
    finish(store, pld, epochs=make_epochs(pld.epochs, names=("top1", "loss")))
    finish(store, kd, epochs=make_epochs(kd.epochs, names=("top1", "top5")))
    found = explain.diff(pld.cell_id, kd.cell_id[:10], workspace=workspace)
    assert {field.path.rsplit(".", 1)[0] for field in found.fields} == {"loss", "loss.hyperparameters"}
    assert (found.paired, found.same_batches, found.same_teacher, found.same_start) == (True, True, True, True)
    (top1,) = [metric for metric in found.metrics if metric.difference is not None]
    assert top1.metric == "top1" and top1.a is not None and top1.b is not None
    assert top1.difference == top1.a - top1.b
    assert {metric.metric: metric.difference for metric in found.metrics} == {
        "top1": top1.difference, "loss": None, "top5": None
    }  # fmt: skip
    assert found.made_with == () and not found.equal
    unpaired = explain.diff(pld.cell_id, other.cell_id, workspace=workspace, seeds=2)
    assert (unpaired.paired, unpaired.same_batches, unpaired.same_start) == (False, False, False)
    assert {metric.metric: (metric.b, metric.difference) for metric in unpaired.metrics} == {
        "top1": (None, None), "loss": (None, None)
    }  # fmt: skip
    assert "different batches (seeds 0 and 1)" in text_of(explain.print_difference, unpaired)


def test_teachers_differ_field_by_field_and_make_no_pair(profile: Profiles, workspace: Workspace) -> None:
    grid = table_grid("table03", profile("digits"))
    table07 = table_grid("table07", profile("digits"))
    (one,) = small(grid, "pld")
    other = next(e.cell for e in entries(table07, loss="pld", optimizer="lamb"))
    found = explain.diff(one.cell_id, other.cell_id, workspace=workspace)
    assert [field.path for field in found.fields] == ["teacher.student.architecture"]
    assert (found.same_batches, found.same_teacher, found.same_start, found.paired) == (True, False, True, False)
    assert found.metrics == () and "none yet" in text_of(explain.print_difference, found)


def test_one_cell_twice_says_so(profile: Profiles, workspace: Workspace) -> None:
    (cell,) = small(table_grid("table03", profile("digits")), "pld")
    found = explain.diff(cell.cell_id, cell.cell_id[:7], workspace=workspace)
    assert found.equal and found.fields == ()
    assert "They are one cell" in text_of(explain.print_difference, found)


def test_numbers_on_other_images_are_not_subtracted_and_code_and_hardware_are_compared(workspace: Workspace) -> None:
    store, cell = Store(workspace.store), make_cell()
    other = make_cell(dataset=Dataset(name="cifar100", num_classes=100, channels=1, image_size=16))
    finish(store, cell)
    made = make_receipt(other).provenance.model_copy(
        update={"commit": "fedcba9", "device": "cuda", "versions": {"torch": "2.9.0", "timm": "1.0.20"}}
    )
    finish(store, other, provenance=made)
    found = explain.diff(cell.cell_id, other.cell_id, workspace=workspace)
    assert not found.comparable and found.metrics
    assert all(metric.difference is None for metric in found.metrics)
    assert {field.path: (field.a, field.b) for field in found.made_with} == {
        "commit": ("0123abc", "fedcba9"), "device": ("cpu", "cuda"), "versions.timm": (explain.ABSENT, "1.0.20")
    }  # fmt: skip
    told = text_of(explain.print_difference, found)
    assert "these numbers cannot be compared" in told
    plain = explain.plain(found)
    assert {field["path"]: field for field in plain["made_with"]}["versions.timm"] == {
        "path": "versions.timm", "b": "1.0.20"
    }  # fmt: skip


def test_an_unfinished_cell_has_numbers_but_no_result(workspace: Workspace) -> None:
    store, cell, other = Store(workspace.store), make_cell(), make_cell(optimizer=Optimizer(name="x", learning_rate=1))
    finish(store, cell)
    begin(store, other, 2)
    found = explain.diff(cell.cell_id, other.cell_id, workspace=workspace)
    assert found.paired and found.metrics and all(metric.difference is None for metric in found.metrics)
    told = text_of(explain.print_difference, found)
    assert "b (epoch 2)" in told and "not known of both yet" in told
