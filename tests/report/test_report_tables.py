"""Test how layouts and records become tables."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from paper_records import PAPER, make_record, make_records, own_grid, table_grid

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.metrics import METRICS
from pld_grid.experiment.profile import Profile
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.report.table_notes import collect_notes, describe_intervals, describe_validation, describe_versions
from pld_grid.report.value_text import describe_state
from pld_grid.report.values import Value
from pld_grid.store.records import CellRecord
from pld_grid.util.errors import InputError

Profiles = Callable[[str], Profile]

PAIRS = """
cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld], seed: [0, 1, 2]}
table:
  rows: [student]
  columns:
    - {header: Student, axis: student}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Gain, minus: [PLD, KD]}
    - {header: Teacher, metric: top1, of: teacher}
    - {header: Above, minus: [PLD, Teacher]}
    - {header: Size, parameters: student}
"""


def number(table: Table, header: str, row: int = 0) -> Value:
    return table.rows[row].cells[table.headers.index(header)]


def build(text: str, profile: Profile, *changed: CellRecord, paper: Path | None = None) -> Table:
    """Build the table of a grid whose cells are finished; the changed records replace theirs."""
    grid = own_grid(text, profile)
    return build_table(grid, make_records([grid]) | {record.cell_id: record for record in changed}, paper)


def find_cell(profile: Profile, loss: str, seed: int) -> Cell:
    """Return a student's cell of `PAIRS`."""
    entries = own_grid(PAIRS, profile).entries
    return next(e.cell for e in entries if e.labels["loss"] == loss and e.cell.seed == seed)


def find_teacher(profile: Profile) -> Cell:
    return find_cell(profile, "kd", 0).teacher


def test_values_are_the_metrics_of_matching_cells(digits):
    table = build(PAIRS, digits)
    kd, pld = ([make_record(find_cell(digits, loss, s)).metrics["top1"] for s in range(3)] for loss in ("kd", "pld"))
    teacher = make_record(find_teacher(digits)).metrics["top1"]
    assert number(table, "KD").numbers == kd
    assert number(table, "Gain").numbers == [p - k for p, k in zip(pld, kd, strict=True)]
    assert number(table, "Teacher").planned == 1 and number(table, "Above").numbers == [p - teacher for p in pld]
    assert number(table, "Size").is_model_size and number(table, "Size").n == 1


def test_difference_leaves_out_pair_of_failed_seed(digits):
    gain = number(build(PAIRS, digits, make_record(find_cell(digits, "kd", 1), "failed", reason="disk full")), "Gain")
    assert (gain.n, gain.planned) == (2, 3)
    assert describe_state(gain) == "n = 2 of 3; seed 1: failed: disk full"


def test_grid_without_table_shows_varying_labels(digits):
    text = "cells: {teacher: ResNet-152, student: ResNet-50, loss: [ce, kd], seed: [0, 1]}"
    table = build(text, digits, paper=PAPER)
    # What only one of the losses has varies too: KD's hyperparameters are blank for CE.
    assert table.headers[0] == "loss" and table.headers[-2:] == ("Top-1", "Top-5")
    assert [row.cells[0] for row in table.rows] == ["ce", "kd"]
    assert number(table, "Top-1").n == 2
    assert table.paper == "" and number(table, "Top-1").paper is None


def test_cells_that_differ_in_more_than_the_seed_are_refused(digits):
    with pytest.raises(InputError) as caught:
        build(PAIRS.replace(", where: {loss: kd}", ""), digits)
    message = str(caught.value)
    assert message.startswith("own.yaml:7: table.columns[1]: ") and "\n" not in message
    for part in ("table own", 'row "Student=ResNet-50"', 'column "KD"', "ambiguous", "loss: kd, pld", "where"):
        assert part in message


def test_one_cell_with_two_labels_is_not_ambiguous(digits):
    # CE has no teacher, so both entries are one cell.
    cells = "cells: {teacher: [ResNet-152, ViT-Base/16], student: ResNet-50, loss: ce}"
    table = "table: {rows: [loss], columns: [{header: Top-1, metric: top1}]}"
    assert number(build(f"{cells}\n{table}", digits), "Top-1").n == 1


def test_number_without_cell_says_not_in_the_grid(digits):
    table = build(PAIRS.replace("loss: kd", "loss: dist"), digits)
    assert describe_state(number(table, "KD")) == "not in the grid"
    assert number(table, "Gain").mean is None


def test_column_with_only_is_blank_in_other_rows_and_so_is_its_difference(digits):
    table = build(PAIRS.replace("header: KD,", "header: KD, only: {student: ViT-Small/16},"), digits)
    assert table.rows[0].cells[1] == "" and table.rows[0].cells[3] == ""


BASELINES = """
defaults: {teacher: ResNet-152, student: [ResNet-50, ViT-Small/16]}
cells:
  - {loss: [kd, dist]}
  - {role: baseline, loss: pld}
table:
  rows: [student, loss]
  columns:
    - {header: Student, axis: student}
    - {header: Loss, axis: loss}
    - {header: Top-1, metric: top1}
    - {header: Delta, minus: [baseline, Top-1]}
"""


def test_baseline_of_a_row_shares_its_labels(digits):
    table = build(BASELINES, digits)
    baselines = {
        e.labels["student"]: e.cell.cell_id for e in own_grid(BASELINES, digits).entries if e.role == "baseline"
    }
    assert len(table.rows) == 4
    for index, row in enumerate(table.rows):
        (sample,) = number(table, "Delta", index).samples
        assert sample.terms[0].cell_id == baselines[row.cells[0]]  # type: ignore[index]


DIFFERENCE = "  difference_rows: [{header: D, minus: [{student: ResNet-50}, {student: ViT-Small/16}]}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASELINES.replace("  - {role: baseline, loss: pld}\n", ""), "role: baseline"),
        (
            BASELINES.replace("loss: pld", "loss: pld, optimizer: [lamb, adamw]"),
            r'column "Delta" is ambiguous: .*optimizer: lamb, adamw',
        ),
        (BASELINES.replace("loss: pld", "loss: [pld, ce]"), '"baseline": none of 4 has student: ResNet-50, loss: kd'),
        (PAIRS + DIFFERENCE, r"difference_rows\[0\].minus\[1\]: 0 rows match \(student: ViT-Small/16\)"),
    ],
)
def test_baseline_or_difference_row_without_one_match_is_refused(digits, text, message):
    with pytest.raises(InputError, match=message):
        build(text, digits)


def test_difference_row_of_table_5_pairs_seeds_over_epochs(digits):
    grid = table_grid("table05", digits, seeds=2)
    table = build_table(grid, make_records([grid]), PAPER)
    for header in ("CE", "KD", "DIST", "PLD"):
        long, short, last = (number(table, header, row) for row in (1, 0, 2))
        assert last.numbers == pytest.approx([a - b for a, b in zip(long.numbers, short.numbers, strict=True)])
    assert number(table, "Delta_KD", 2).paper == "" and number(table, "Delta_KD", 2).n == 2


def test_metrics_describe_themselves():
    assert METRICS["top1"].axis_label(difference=True) == "Difference in top-1 accuracy (points)"
    assert METRICS["kl_teacher_student"].axis_label() == "KL(teacher || student) (nats)"
    assert METRICS["top1"].describe(97.456) == "top-1 97.46 %"


# -- code versions ----------------------------------------------------------------------------------------------------


def test_numbers_of_one_version_have_no_mark(digits):
    table, empty = build(PAIRS, digits), build_table(own_grid(PAIRS, digits), {})
    assert table.versions == {"0123abc": 7} and table.main_version == "0123abc"
    assert not any(value.from_other_version for value in table.values) and describe_versions(table) == ""
    assert empty.versions == {} and empty.main_version == ""


def test_numbers_of_another_version_are_marked(digits):
    commit = "89abcdef0123456789abcdef0123456789abcdef-dirty"
    table = build(PAIRS, digits, make_record(find_cell(digits, "kd", 1), commit=commit))
    assert table.versions == {"0123abc": 6, "89abcdef01-dirty": 1}
    assert {h for h in table.headers[1:] if number(table, h).from_other_version} == {"KD", "Gain"}
    assert describe_versions(table) == (
        "Computed: 6 cells by commit 0123abc, 1 cell by commit 89abcdef01 (had uncommitted changes);"
        " † marks numbers that another version than the first computed, at least in part"
    )


def test_teacher_of_another_version_marks_its_students(digits):
    table = build(PAIRS, digits, make_record(find_teacher(digits), commit=""))
    assert table.versions == {"0123abc": 6, "unknown": 1}
    assert all(number(table, header).from_other_version for header in ("KD", "PLD", "Gain", "Teacher", "Above"))
    assert "1 cell by an unknown commit" in describe_versions(table)


def test_uncommitted_changes_of_all_cells_are_named(digits):
    cells = own_grid(PAIRS, digits).cells()
    table = build(PAIRS, digits, *(make_record(cell, commit="abc-dirty") for cell in cells))
    assert describe_versions(table) == "All cells were computed by commit abc (had uncommitted changes)"
    assert not any(value.from_other_version for value in table.values)


# -- notes ------------------------------------------------------------------------------------------------------------


def test_validation_note_gives_the_binomial_error_of_the_mean(digits):
    records = [make_record(cell, metrics={"top1": 96.1}) for cell in own_grid(PAIRS, digits).cells()]
    unfinished = make_record(find_cell(digits, "kd", 0), "unfinished", metrics={"top1": 1.0})
    table = build(PAIRS, digits, *records, unfinished)
    assert table.mean_top1 == pytest.approx(96.1)
    assert describe_validation(table) == (
        "355 validation images: a top-1 accuracy of 96.1 % (the mean of this table) has a binomial standard error of"
        " 1.03 percentage points; more seeds do not reduce it"
    )
    assert describe_validation(build_table(own_grid(PAIRS, digits), {})) == "355 validation images"
    unknown = replace(table, setting=replace(table.setting, validation_images=None))
    assert "unknown" in describe_validation(unknown)


def test_intervals_note_appears_with_differences(digits):
    text = describe_intervals(build(PAIRS, digits))
    assert "paired by seed" in text and '"[-]"' not in text
    one_seed = build(PAIRS.replace("seed: [0, 1, 2]", "seed: 0"), digits)
    assert '"[-]": no interval, as there is only one seed' in describe_intervals(one_seed)
    plain = own_grid("cells: {student: ResNet-50, loss: [ce, ls]}", digits)
    assert set(collect_notes(build_table(plain, {}))) == {"Validation"}


# -- the paper's side -----------------------------------------------------------------------------------------------

MINE = """
cells: {student: ResNet-50, loss: [ce, ls]}
table: {rows: [loss], columns: [{header: Loss, axis: loss}, {header: A, metric: top1}], paper: mine}
"""


def build_with_paper(profile: Profile, folder: Path, text: str) -> Table:
    (folder / "mine.csv").write_text(text)
    return build_table(own_grid(MINE, profile), {}, folder)


def test_paper_figures_are_matched_by_key_columns_in_any_order(digits, tmp_path):
    table = build_with_paper(digits, tmp_path, "Loss,A\nls,71.30\nce,\n")
    assert [number(table, "A", row).paper for row in (0, 1)] == ["", "71.30"]
    assert table.paper == "mine.csv"
    assert build_table(own_grid(MINE, digits), {}).paper == ""


def test_paper_std_column_is_matched_with_its_figures(digits, tmp_path):
    table = build_with_paper(digits, tmp_path, "Loss,A,A std\nls,71.30,0.24\nce,70.1,\n")
    values = [number(table, "A", row) for row in (0, 1)]
    assert [(value.paper, value.paper_std) for value in values] == [("70.1", ""), ("71.30", "0.24")]
    assert table.headers == ("Loss", "A")
