"""Explanations of numbers, reports on cells and comparisons of cells, from stores that no training filled."""

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
from paper_records import PAPER, TABLES, all_grids, make_records, own_grid, table_grid
from rich.console import Console

from pld_grid import explain
from pld_grid.experiment.cell import Cell, Dataset, Loss, Model, Optimizer, canonical_json, ledger
from pld_grid.experiment.profile import Profile
from pld_grid.explain.cell_report import CellReport
from pld_grid.explain.difference import ABSENT, FieldDifference, compare_fields
from pld_grid.explain.grid_index import GridIndex, Use
from pld_grid.explain.sparkline import MAX_BARS, MAX_COLUMNS, render_bars, render_curve, sample_indices
from pld_grid.explain.table_position import find_column, find_row
from pld_grid.explain.terminal_view import format_specification
from pld_grid.report.statistics import estimate_interval
from pld_grid.report.table_builder import build_table
from pld_grid.report.values import Value
from pld_grid.service import loading
from pld_grid.service.workspace import Workspace
from pld_grid.store import Mirror, Store
from pld_grid.util.errors import InputError

Profiles = Callable[[str], Profile]
ROW = "MobileNet-v4 Small (conv)"
SERVER = "http://mlflow.example:5000"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty store in an empty folder, mirrored by a server that is never contacted."""
    monkeypatch.chdir(tmp_path)
    for name in ("PLD_GRID_STORE", "MLFLOW_TRACKING_URI", "PLD_GRID_DATA"):
        monkeypatch.delenv(name, raising=False)
    return Workspace("results", SERVER)


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return Store(workspace.store)


class Cells:
    """The students of ROW in Table 3."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def get(self, loss: str, seeds: int = 1) -> list[Cell]:
        labels = {"student": "MobileNetV4 Conv Small", "loss": loss}
        grid = table_grid("table03", self.profile, seeds=seeds)
        return [entry.cell for entry in grid.entries if labels.items() <= entry.labels.items()]


@pytest.fixture
def cells(profile: Profiles) -> Cells:
    return Cells(profile("digits"))


@pytest.fixture
def pld(cells: Cells) -> Cell:
    return cells.get("pld")[0]


def render(result: explain.Explanation | explain.Difference, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    explain.print_result(result, console)
    return console.file.getvalue()


def report(cell_id: str, workspace: Workspace) -> CellReport:
    return explain.why_cell(cell_id, workspace=workspace).cells[0]


def mirror(cell: Cell, tracking_uri: str = f"{SERVER}#pld_grid", **fields: str) -> Mirror:
    state = {"epochs": cell.epochs, "state": "finished", "run_id": "abc", "tracking_uri": tracking_uri}
    return Mirror.model_validate(state | fields)


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_why_number_has_its_cells_their_teacher_and_the_papers_figure(cells, workspace, store):
    students = cells.get("pld", seeds=3)
    for cell in students:
        epochs = make_epochs(cell.epochs, names=("top1", f"of seed {cell.seed}"))
        finish(store, cell, epochs=epochs[: cell.epochs - cell.seed])
    explanation = explain.why("table03", ROW, "pld", workspace=workspace, seeds=3)
    number = explanation.number
    assert (number.table, number.column, number.value.paper) == ("table03", "PLD", "70.07")
    assert number.row == f"Student={ROW}, Teacher=MobileNet-v4 Large (conv)"
    tops = [make_epochs(cell.epochs - cell.seed, names=("top1",))[-1].metrics["top1"] for cell in students]
    assert number.value.numbers == tops and len(set(tops)) == 3
    assert number.interval == estimate_interval(tops)
    assert [each.cell for each in explanation.cells] == students
    assert [each.cell for each in explanation.teachers] == [students[0].teacher]
    states = [each.state for each in (*explanation.cells, *explanation.teachers)]
    assert states == ["finished"] * 3 + ["not run"]


def test_why_difference_has_both_sides_and_names_missing_cells(cells, workspace, store):
    (pld, _), (kd, failed) = cells.get("pld", seeds=2), cells.get("kd", seeds=2)
    finish(store, pld)
    finish(store, kd)
    stop(store, failed, "failed", "out of memory")
    explanation = explain.why("table03", ROW, "Delta_KD", workspace=workspace, seeds=2)
    assert explanation.number.interval is None
    pairs = zip(cells.get("pld", seeds=2), cells.get("kd", seeds=2), strict=True)
    assert [each.cell for each in explanation.cells] == [cell for pair in pairs for cell in pair]
    text = render(explanation)
    assert f"+  {pld.cell_id}" in text and f"-  {failed.cell_id}" in text
    assert "1 of 2" in text and "seed 1: failed: out of memory" in text
    # The first student and the teacher are shown whole, the others by their differences from the first.
    assert text.count("spec_version: 2") == 2
    loss = ["name: kd", "hyperparameters.tau: 2.0", "without", "hyperparameters.alpha: 0.1"]
    loss = [f"    loss.{line}" if line != "without" else "    without loss.hyperparameters.weights" for line in loss]
    loss += ["    loss.hyperparameters.divergence: forward"]
    others = [part.split("\n\n")[0].split("\n") for part in text.split(f"that of {pld.cell_id}, but\n")[1:]]
    assert others == [loss, ["    seed: 1"], [*loss, "    seed: 1"]]


@pytest.mark.parametrize("name", TABLES)
def test_find_row_and_column_every_number_of_every_table_is_found(name, profile):
    grid = table_grid(name, profile("digits"))
    table = build_table(grid, make_records([grid]), PAPER)
    for row in table.rows:
        assert find_row(grid, table, row.name) is find_row(grid, table, row.name.upper()) is row
        for header, value in zip(table.headers, row.cells, strict=True):
            assert not isinstance(value, Value) or find_column(table, row, header) == (header, value)


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
def test_find_row_matches_any_labels_that_only_it_has(name, text, row, profile):
    grid = table_grid(name, profile("digits"))
    assert find_row(grid, build_table(grid, {}, PAPER), text).name == row


def test_find_row_own_name_wins_over_a_row_that_has_all_of_its_labels(profile):
    grid = own_grid(
        "cells: {teacher: ResNet-152, student: ResNet-50, loss: pld, hyperparameters: {pld: {tau: [1, 2]}}}\n"
        "table:\n  rows: [loss, tau]\n  columns:\n    - {header: Loss, axis: loss}\n"
        "    - {header: tau, axis: tau, only: {tau: 2.0}}\n    - {header: Top-1, metric: top1}\n",
        profile("digits"),
    )
    table = build_table(grid, {})
    assert [row.name for row in table.rows] == ["Loss=pld", "Loss=pld, tau=2.00"]
    matches = [find_row(grid, table, text) for text in ("Loss=pld", "pld, tau=2", "tau=1")]
    assert matches == [table.rows[0], table.rows[1], table.rows[0]]
    with pytest.raises(InputError, match=r'^"pld" is 2 rows of own: "Loss=pld"; "Loss=pld, tau=2\.00"; name one'):
        find_row(grid, table, "pld")


@pytest.mark.parametrize(
    ("name", "row", "column", "message"),
    [
        ("table01", "KD", "Top-1", '"KD" is 2 rows of table01: "Method=KD, alpha=0.00, tau=2.00"; "Method=KD, alpha'),
        ("table01", "tau=1", "Top-1", '"tau=1" is 2 rows of table01: '),
        ("table03", "ResNet-51", "PLD", '(did you mean "ResNet-50"?)'),
        ("table03", "ResNet-50, ViT-Large", "PLD", 'no row "ResNet-50, ViT-Large"; it has: "Student=ViT-Sm'),
        ("table03", "ResNet-50", "PDL", 'table03 has no column "PDL"; valid: '),
        ("table03", "ResNet-50", "PDL", '(did you mean "PLD"?)'),
        ("table03", "ResNet-50", "Student", 'column "Student" of table03 holds no numbers; valid: '),
        ("table3", "ResNet-50", "PLD", '(did you mean "table03"?)'),
        ("nowhere.yaml", "ResNet-50", "PLD", "nowhere.yaml: cannot be read: No such file or directory"),
    ],
)
def test_why_wrong_place_raises_one_line_with_valid_names(name, row, column, message, workspace):
    with pytest.raises(InputError) as caught:
        explain.why(name, row, column, workspace=workspace)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path(workspace.store).exists()


def test_why_grid_by_path_counts_among_the_uses(cells, workspace):
    Path("mine").mkdir()
    Path("mine/own.yaml").write_text(
        "cells: {teacher: MobileNetV4 Conv Large, student: MobileNetV4 Conv Small, loss: [kd, pld]}\n"
        "table: {rows: [loss], columns: [{header: Loss, axis: loss}, {header: Top-1, metric: top1}]}\n"
    )
    explanation = explain.why("mine/own.yaml", "pld", "Top-1", workspace=workspace)
    assert [each.cell for each in explanation.cells] == cells.get("pld")
    uses = {use.table: use for use in explanation.cells[0].uses}
    assert uses["own"] == Use("own", "Loss=pld", ("Top-1",)) and {"table03", "table10"} <= set(uses)
    assert "run mine/own.yaml" in explanation.cells[0].rerun


def test_why_grids_that_the_profile_cannot_read_are_named(workspace):
    Path("grids").mkdir()
    Path("grids/odd.yaml").write_text("cells: {student: no-such-net, loss: ce}\n")
    explanation = explain.why("table03", ROW, "PLD", workspace=workspace)
    assert 'unknown model "no-such-net"' in explanation.skipped["odd"]
    assert "odd" in render(explanation).splitlines()[-1]
    with pytest.raises(InputError, match="unknown model"):
        explain.why("odd", ROW, "PLD", workspace=workspace)


# -- cells -----------------------------------------------------------------------------------------------------------


def test_find_uses_are_the_rows_and_columns_of_the_tables(profile, workspace):
    grids = all_grids(profile("digits"))
    index = GridIndex("digits", workspace)
    all_cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    expected: dict[str, set[tuple[str, str, str]]] = {cell_id: set() for cell_id in all_cells}
    for grid in grids:
        for row in build_table(grid, {}, PAPER).rows:
            for column, value in zip(grid.layout.columns, row.cells, strict=True):
                if isinstance(value, Value) and not value.is_model_size:
                    for term in (term for sample in value.samples for term in sample.terms):
                        expected[term.cell_id].add((grid.name, row.name, column.header))
    shared = 0
    for cell_id, cell in all_cells.items():
        uses = [use for use in index.find_uses(cell) if use.table in TABLES]
        assert {(use.table, use.row, column) for use in uses for column in use.columns} == expected[cell_id]
        assert {use.table for use in uses} == {grid.name for grid in grids if cell in list(grid.cells())}
        shared += len({use.table for use in uses}) > 1
        # The same under a seed that no grid has.
        other_seed = cell.model_copy(update={"seed": 7})
        assert {use.row for use in index.find_uses(other_seed)} <= {use.row for use in uses}
    assert shared > 10


def test_find_uses_hashes_no_cell_twice(cells, workspace, monkeypatch):
    """Hashing every cell for every use took a minute with a hundred seeds."""
    students = cells.get("kd", seeds=40)
    index = GridIndex("digits", workspace, seeds=40)
    uses = index.find_uses(students[0])
    id_under, calls = Cell.id_under, []
    monkeypatch.setattr(Cell, "id_under", lambda cell, seed: calls.append(seed) or id_under(cell, seed))
    assert len(students) == 40 and all(index.find_uses(cell) == uses for cell in students)
    assert len(calls) < 4 * len(students) * len(index.grids)


def test_cell_report_finished_cell_has_run_files_provenance_and_ledger(pld, workspace, store):
    receipt = finish(store, pld)
    store.write_mirror(pld.cell_id, mirror(pld, experiment_id="7"))
    result = report(pld.cell_id[:6].upper(), workspace)
    assert (result.cell, result.state) == (pld, "finished")
    assert result.record.provenance == receipt.provenance
    assert (result.record.parameters, result.record.epochs) == (receipt.parameters, receipt.epochs)
    assert result.run_link == f"{SERVER}/#/experiments/7/runs/abc"
    assert all(Path(path).is_file() for path in result.files)
    names = {"cell.json", "mirror.json", "receipt.json", "weights.safetensors"}
    assert {Path(path).name for path in result.files} == names
    # A student that starts from scratch has no published weights to choose.
    fields = [entry.field for entry in ledger() if not entry.field.startswith("student.pretrained")]
    assert [choice.field for choice in result.ledger] == fields
    assert {choice.field: choice.value for choice in result.ledger}["conventions.accuracy_epoch"] == "last"


def test_cell_report_run_counts_only_in_the_workspaces_mlflow(pld, workspace, store):
    finish(store, pld)
    store.write_mirror(pld.cell_id, mirror(pld, "http://other#pld_grid"))
    assert report(pld.cell_id, workspace).run_link == ""
    store.write_mirror(pld.cell_id, mirror(pld, "sqlite:///mlflow.db#pld_grid"))
    local = Workspace(workspace.store, "sqlite:///mlflow.db")
    text = render(explain.why_cell(pld.cell_id, workspace=local))
    assert "http://127.0.0.1:5000/#/runs/abc (served by `pld-grid ui`)" in text


def test_cell_report_archived_results_are_named(pld, workspace, store):
    finish(store, pld)
    archive = Path(workspace.store) / f"{pld.cell_id}.replaced-0a1b2c3d"
    (Path(workspace.store) / pld.cell_id).rename(archive)
    result = report(pld.cell_id, workspace)
    assert (result.state, result.files, result.earlier) == ("not run", (), (str(archive),))


def test_cell_report_unfinished_cell_has_checkpoints_and_epochs_so_far(pld, workspace, store):
    begin(store, pld, 2)
    result = report(pld.cell_id, workspace)
    assert (result.state, result.record.provenance, len(result.record.epochs)) == ("unfinished", None, 2)
    assert f"results/{pld.cell_id}/checkpoints/000002.pt" in result.files
    assert "--again" not in result.rerun
    assert "at epoch 2" in render(explain.why_cell(pld.cell_id, workspace=workspace))


@pytest.mark.parametrize("seed", [0, 3])
def test_cell_report_command_names_a_grid_that_has_the_cell(seed, pld, workspace, store):
    cell = pld.model_copy(update={"seed": seed})
    finish(store, cell)
    words = shlex.split(report(cell.cell_id, workspace).rerun)
    assert (words[:2], words[-3:]) == (["pld-grid", "run"], ["--only", cell.cell_id, "--again"])
    options = dict(zip(words[3:-1:2], words[4:-1:2], strict=True))
    assert (options["--store"], options["--tracking-uri"]) == ("results", SERVER)
    assert ("--seeds" in options) == bool(seed)
    seeds = int(options["--seeds"]) if seed else None
    assert cell in list(loading.load_grid(words[2], options["--profile"], seeds=seeds).cells())


def test_why_cell_that_no_grid_needs_is_explained_too(workspace, store):
    cell = make_distilled()
    finish(store, cell)
    explanation = explain.why_cell(cell.cell_id, workspace=workspace)
    (student,), (teacher,) = explanation.cells, explanation.teachers
    assert (student.cell, student.uses, student.rerun) == (cell, (), "")
    assert (teacher.cell, teacher.state) == (cell.teacher, "not run")
    assert "no grid under digits needs it" in render(explanation)


def test_why_cell_measurement_has_a_result_and_no_curve(workspace, store):
    cell = make_measured()
    finish(store, cell, weights=None)
    explanation = explain.why_cell(cell.cell_id, workspace=workspace)
    (result,) = explanation.cells
    assert result.last_epoch.epoch == 0
    assert "student.pretrained.tag" in {choice.field for choice in result.ledger}
    text = render(explanation)
    assert f"top-1 {result.last_epoch.metrics['top1']:.2f} %" in text
    assert "\ncurve" not in text and "\nspecification" in text


def test_why_cell_id_must_match_exactly_one_cell(workspace, store):
    cell = make_cell()
    finish(store, cell)
    twin = cell.cell_id[:8] + "0" * 8
    (Path(workspace.store) / twin).mkdir()
    for text, message in (
        ("12345", "is no cell id: 16 hex digits, or the first 6 or more"),
        ("table03", '"table03" is no cell id'),
        (cell.cell_id[:8], f"begin with {cell.cell_id[:8]}: "),
        ("0" * 16, "begins with 0000000000000000"),
        (twin, f"cell {twin} in store results is damaged, or of another version of pld_grid"),
    ):
        with pytest.raises(InputError) as caught:
            explain.why_cell(text, workspace=workspace)
        assert message in str(caught.value)
    assert report(cell.cell_id, workspace).cell == cell


def test_print_lines_stay_whole_on_any_width(cells, pld, workspace, store):
    (kd,) = cells.get("kd")
    for cell in (pld, kd):
        finish(store, cell)
    explanation = explain.why("table03", ROW, "Delta_KD", workspace=workspace)
    wide, narrow = (render(explanation, width) for width in (1000, 20))
    wide_lines, narrow_lines = ([x for x in text.splitlines() if not x.endswith("─")] for text in (wide, narrow))
    assert narrow_lines == wide_lines
    assert all(text in narrow for each in explanation.cells for text in (each.rerun, *each.files))
    difference = explain.diff(pld.cell_id, kd.cell_id, workspace=workspace)
    assert render(difference, 20) == render(difference, 1000)


# -- curves ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 1000), st.integers(2, 80))
def test_sample_indices_are_few_and_keep_both_ends(count, limit):
    indices = sample_indices(count, limit)
    assert len(indices) == min(count, limit) and (indices[0], indices[-1]) == (0, count - 1)
    assert indices == sorted(set(indices))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_render_bars_rise_with_the_numbers(numbers):
    bars = render_bars(numbers)
    assert len(bars) == len(numbers)
    order = sorted(range(len(numbers)), key=lambda index: numbers[index])
    assert [bars[index] for index in order] == sorted(bars) and bars[order[0]] == "▁"


def test_render_curve_shows_the_epochs_that_fit_and_the_last():
    bars, epochs, tops = render_curve(make_epochs(300))
    assert len(bars) == MAX_BARS and len(epochs.split()) == len(tops.split()) == MAX_COLUMNS + 1
    assert (epochs.split()[-1], tops.split()[-1]) == ("300", f"{make_epochs(300)[-1].metrics['top1']:.2f}")
    assert render_curve(make_epochs(1)) == render_curve(()) == []


# -- two cells -------------------------------------------------------------------------------------------------------

_SCALARS = [True, False, 0, 1, 2, 3, 0.0, 1.0, 0.5, "a", "b", None]
_VALUES = st.sampled_from(_SCALARS) | st.lists(st.integers(0, 2), max_size=2)
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
    """Return a cell's fields, with its teacher's id for the teacher if the other cell has none."""
    fields = cell.model_dump(mode="json")
    if cell.teacher is not None:
        fields["teacher"] = cell.teacher.cell_id if other.teacher is None else _dump(cell.teacher, other.teacher)
    return fields


def _apply(fields: dict[str, Any], difference: FieldDifference) -> None:
    """Replace the first value of a difference, which must be in the fields, by the second."""
    *parents, last = difference.path.split(".")
    for parent in parents:
        fields = fields[parent]
    if difference.a is ABSENT:
        assert last not in fields
    else:
        assert canonical(fields[last]) == canonical(difference.a) != canonical(difference.b)
    if difference.b is ABSENT:
        del fields[last]
    else:
        fields[last] = difference.b


def canonical(value: Any) -> str:
    return repr(value) if not isinstance(value, dict) else repr(sorted((k, canonical(v)) for k, v in value.items()))


@given(CELLS, CELLS)
def test_compare_fields_yields_all_differences_and_nothing_else(a, b):
    differences = list(compare_fields(a, b))
    assert (differences == []) == (a.cell_id == b.cell_id)
    paths = [difference.path for difference in differences]
    assert len(set(paths)) == len(paths)
    assert not any(other.startswith(f"{path}.") for path in paths for other in paths)
    fields, expected = _dump(a, b), _dump(b, a)
    for difference in differences:
        _apply(fields, difference)
    assert canonical(fields) == canonical(expected)
    reverse = {d.path: (canonical(d.b), canonical(d.a)) for d in compare_fields(b, a)}
    assert reverse == {d.path: (canonical(d.a), canonical(d.b)) for d in differences}


@given(CELLS)
def test_format_specification_is_the_whole_cell(cell):
    fields = yaml.safe_load(format_specification(cell))
    assert fields.pop("teacher") == (cell.teacher.cell_id if cell.teacher is not None else None)
    assert Cell.model_validate(fields | {"teacher": cell.teacher}).cell_id == cell.cell_id
    alone = Cell.model_validate(cell.model_dump(exclude={"teacher"}))
    assert canonical_json(Cell.model_validate(fields)) == canonical_json(alone)


def test_diff_two_losses_under_one_seed_are_a_pair(cells, workspace, store):
    (pld, _), (kd, other_seed) = cells.get("pld", seeds=2), cells.get("kd", seeds=2)
    finish(store, pld, epochs=make_epochs(pld.epochs, names=("top1", "loss")))
    finish(store, kd, epochs=make_epochs(kd.epochs, names=("top1", "top5")))
    paired = explain.diff(pld.cell_id, kd.cell_id[:10], workspace=workspace)
    assert {field.path.rsplit(".", 1)[0] for field in paired.fields} == {"loss", "loss.hyperparameters"}
    assert (paired.paired, paired.same_batches, paired.same_teacher, paired.same_start) == (True, True, True, True)
    assert paired.made_with == () and not paired.equal
    metrics = {metric.metric: metric for metric in paired.metrics}
    assert [name for name, metric in metrics.items() if metric.difference is not None] == ["top1"]
    top1 = metrics["top1"]
    assert set(metrics) == {"top1", "loss", "top5"} and top1.a is not None and top1.b is not None
    assert top1.difference == top1.a - top1.b
    unpaired = explain.diff(pld.cell_id, other_seed.cell_id, workspace=workspace, seeds=2)
    assert (unpaired.paired, unpaired.same_batches, unpaired.same_start) == (False, False, False)
    assert {(m.metric, m.b, m.difference) for m in unpaired.metrics} == {("top1", None, None), ("loss", None, None)}
    assert "different batches (seeds 0 and 1)" in render(unpaired)


def test_diff_teachers_differ_field_by_field_and_make_no_pair(pld, profile, workspace):
    entries = table_grid("table07", profile("digits")).entries
    other = next(e.cell for e in entries if {"loss": "pld", "optimizer": "lamb"}.items() <= e.labels.items())
    result = explain.diff(pld.cell_id, other.cell_id, workspace=workspace)
    assert [field.path for field in result.fields] == ["teacher.student.architecture"]
    assert (result.same_batches, result.same_teacher, result.same_start, result.paired) == (True, False, True, False)
    assert result.metrics == () and "none yet" in render(result)


def test_diff_one_cell_twice_says_so(pld, workspace):
    result = explain.diff(pld.cell_id, pld.cell_id[:7], workspace=workspace)
    assert result.equal and result.fields == ()
    assert "They are one cell" in render(result)


def test_diff_other_images_are_not_subtracted_and_provenance_is_compared(workspace, store):
    cell = make_cell()
    other = make_cell(dataset=Dataset(name="cifar100", num_classes=100, channels=1, image_size=16))
    finish(store, cell)
    versions = {"torch": "2.9.0", "timm": "1.0.20"}
    changes = {"commit": "fedcba9", "device": "cuda", "versions": versions}
    finish(store, other, provenance=make_receipt(other).provenance.model_copy(update=changes))
    result = explain.diff(cell.cell_id, other.cell_id, workspace=workspace)
    assert not result.comparable and result.metrics
    assert all(metric.difference is None for metric in result.metrics)
    assert {field.path: (field.a, field.b) for field in result.made_with} == {
        "commit": ("0123abc", "fedcba9"),
        "device": ("cpu", "cuda"),
        "versions.timm": (ABSENT, "1.0.20"),
    }
    assert "these numbers cannot be compared" in render(result)
    assert {"path": "versions.timm", "b": "1.0.20"} in explain.to_dict(result)["made_with"]


def test_diff_unfinished_cell_has_numbers_but_no_result(workspace, store):
    cell, other = make_cell(), make_cell(optimizer=Optimizer(name="x", learning_rate=1))
    finish(store, cell)
    begin(store, other, 2)
    result = explain.diff(cell.cell_id, other.cell_id, workspace=workspace)
    assert result.paired and result.metrics and all(metric.difference is None for metric in result.metrics)
    text = render(result)
    assert "b (epoch 2)" in text and "not known of both yet" in text
