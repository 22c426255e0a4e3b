"""Layouts and records -> tables, with grids written here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import PAPER, make_record, own_grid, records_of, table_grid

from pld_grid.errors import InputError
from pld_grid.profile import Profile
from pld_grid.report import Table, Value, build_table
from pld_grid.report.caption import captions, interval_caption, validation_caption, versions_caption
from pld_grid.report.values import states

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
    found = table.rows[row].cells[table.headers.index(header)]
    assert isinstance(found, Value)
    return found


def test_values_are_the_records_of_the_matching_cells(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    records = records_of([grid])
    table = build_table(grid, records)
    by_loss = {
        loss: [records[e.cell.cell_id].metrics["top1"] for e in grid.entries if e.labels["loss"] == loss]
        for loss in ("kd", "pld")
    }
    assert number(table, "KD").numbers == by_loss["kd"]
    assert number(table, "Gain").numbers == [p - k for p, k in zip(by_loss["pld"], by_loss["kd"], strict=True)]
    teacher = grid.entries[0].cell.teacher
    assert teacher is not None
    above = [p - records[teacher.cell_id].metrics["top1"] for p in by_loss["pld"]]
    assert number(table, "Teacher").wanted == 1 and number(table, "Above").numbers == above
    assert number(table, "Size").fact and number(table, "Size").n == 1


def test_a_failed_seed_leaves_its_pair_out(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    records = records_of([grid])
    lost = next(e.cell for e in grid.entries if e.labels["loss"] == "kd" and e.cell.seed == 1)
    records[lost.cell_id] = make_record(lost, "failed", reason="disk full")
    gain = number(build_table(grid, records), "Gain")
    assert (gain.n, gain.wanted) == (2, 3)
    assert states(gain) == "n = 2 of 3; seed 1: failed: disk full"


def test_a_grid_without_table_shows_what_varies(profile: Profiles) -> None:
    grid = own_grid("cells: {teacher: ResNet-152, student: ResNet-50, loss: [ce, kd], seed: [0, 1]}", profile("digits"))
    table = build_table(grid, records_of([grid]), PAPER)
    # What only one of the losses has varies too: KD's hyperparameters are blank for CE.
    assert table.headers[0] == "loss" and table.headers[-2:] == ("Top-1", "Top-5")
    assert [row.cells[0] for row in table.rows] == ["ce", "kd"]
    assert number(table, "Top-1").n == 2
    assert table.paper == "" and number(table, "Top-1").paper is None


def test_one_number_from_cells_that_differ_in_more_than_the_seed_is_refused(profile: Profiles) -> None:
    text = PAIRS.replace(", where: {loss: kd}", "")
    grid = own_grid(text, profile("digits"))
    with pytest.raises(InputError) as caught:
        build_table(grid, {})
    message = str(caught.value)
    assert message.startswith("own.yaml:7: table.columns[1]: ")
    for part in ("table own", 'row "Student=ResNet-50"', 'column "KD"', "ambiguous", "loss: kd, pld", "where"):
        assert part in message
    assert "\n" not in message


def test_one_cell_under_two_labels_is_not_ambiguous(profile: Profiles) -> None:
    # CE has no teacher, so both entries are one cell.
    text = "cells: {teacher: [ResNet-152, ViT-Base/16], student: ResNet-50, loss: ce}\ntable: {rows: [loss], columns: [{header: Top-1, metric: top1}]}"  # noqa: E501
    grid = own_grid(text, profile("digits"))
    assert number(build_table(grid, records_of([grid])), "Top-1").n == 1


def test_a_number_that_no_cell_makes_says_so(profile: Profiles) -> None:
    grid = own_grid(PAIRS.replace("loss: kd", "loss: dist"), profile("digits"))
    table = build_table(grid, records_of([grid]))
    assert states(number(table, "KD")) == "not in the grid"
    assert number(table, "Gain").mean is None


def test_only_leaves_columns_blank_and_so_their_differences(profile: Profiles) -> None:
    text = PAIRS.replace("header: KD,", "header: KD, only: {student: ViT-Small/16},")
    table = build_table(own_grid(text, profile("digits")), {})
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


def test_each_row_has_the_baseline_that_shares_its_labels(profile: Profiles) -> None:
    grid = own_grid(BASELINES, profile("digits"))
    table = build_table(grid, records_of([grid]))
    baselines = {e.labels["student"]: e.cell.cell_id for e in grid.entries if e.role == "baseline"}
    assert len(table.rows) == 4
    for index, row in enumerate(table.rows):
        (sample,) = number(table, "Delta", index).samples
        assert sample.terms[0].cell_id == baselines[row.cells[0]]  # type: ignore[index]


def test_a_baseline_that_is_not_there_is_an_error(profile: Profiles) -> None:
    text = BASELINES.replace("  - {role: baseline, loss: pld}\n", "")
    with pytest.raises(InputError, match="role: baseline"):
        build_table(own_grid(text, profile("digits")), {})


def test_baselines_that_no_label_of_the_rows_tells_apart_are_ambiguous(profile: Profiles) -> None:
    text = BASELINES.replace("loss: pld", "loss: pld, optimizer: [lamb, adamw]")
    with pytest.raises(InputError, match=r'column "Delta" is ambiguous: .*optimizer: lamb, adamw'):
        build_table(own_grid(text, profile("digits")), {})


def test_a_row_that_shares_no_baselines_labels_is_an_error(profile: Profiles) -> None:
    text = BASELINES.replace("loss: pld", "loss: [pld, ce]")
    with pytest.raises(InputError, match='"baseline": none of 4 has student: ResNet-50, loss: kd'):
        build_table(own_grid(text, profile("digits")), {})


def test_a_difference_row_needs_one_row_on_each_side(profile: Profiles) -> None:
    text = PAIRS + "  difference_rows: [{header: D, minus: [{student: ResNet-50}, {student: ViT-Small/16}]}]\n"
    with pytest.raises(InputError, match=r"difference_rows\[0\].minus\[1\]: 0 rows match \(student: ViT-Small/16\)"):
        build_table(own_grid(text, profile("digits")), {})


def test_table_5s_last_row_pairs_seeds_over_epochs(profile: Profiles) -> None:
    grid = table_grid("table05", profile("digits"), seeds=2)
    records = records_of([grid])
    table = build_table(grid, records, PAPER)
    for header in ("CE", "KD", "DIST", "PLD"):
        long, short, last = (number(table, header, row) for row in (1, 0, 2))
        assert last.numbers == pytest.approx([a - b for a, b in zip(long.numbers, short.numbers, strict=True)])
    assert number(table, "Delta_KD", 2).paper == "" and number(table, "Delta_KD", 2).n == 2


# -- code versions ----------------------------------------------------------------------------------------------------


def test_a_table_of_one_version_has_no_marks(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    table = build_table(grid, records_of([grid]))
    assert table.versions == {"0123abc": 7} and table.version == "0123abc"
    assert not any(value.other_version for value in table.values) and versions_caption(table) == ""
    assert build_table(grid, {}).versions == {} and build_table(grid, {}).version == ""


def test_numbers_of_another_version_are_marked(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    records = records_of([grid])
    other = next(e.cell for e in grid.entries if e.labels["loss"] == "kd" and e.cell.seed == 1)
    records[other.cell_id] = make_record(other, commit="89abcdef0123456789abcdef0123456789abcdef-dirty")
    table = build_table(grid, records)
    assert table.versions == {"0123abc": 6, "89abcdef01-dirty": 1}
    marked = {header for header in table.headers[1:] if number(table, header).other_version}
    assert marked == {"KD", "Gain"}
    assert versions_caption(table) == (
        "6 cells by commit 0123abc, 1 cell by commit 89abcdef01 (had uncommitted changes);"
        " † marks numbers that another version than the first had a part in"
    )


def test_a_teacher_of_another_version_marks_its_students(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    records = records_of([grid])
    teacher = grid.entries[0].cell.teacher
    assert teacher is not None
    records[teacher.cell_id] = make_record(teacher, commit="")
    table = build_table(grid, records)
    assert table.versions == {"0123abc": 6, "unknown": 1}
    assert all(number(table, header).other_version for header in ("KD", "PLD", "Gain", "Teacher", "Above"))
    assert "1 cell by an unknown commit" in versions_caption(table)


def test_uncommitted_changes_are_named_even_if_all_cells_share_them(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    cells = {cell.cell_id: cell for cell in grid.cells()}
    records = {cell_id: make_record(cell, commit="abc-dirty") for cell_id, cell in cells.items()}
    table = build_table(grid, records)
    assert versions_caption(table) == "All cells by commit abc (had uncommitted changes)"
    assert not any(value.other_version for value in table.values)


# -- captions ---------------------------------------------------------------------------------------------------------


def test_the_binomial_error_is_that_of_the_tables_own_mean(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    cells = {cell.cell_id: cell for cell in grid.cells()}
    records = {cell_id: make_record(cell, metrics={"top1": 96.1}) for cell_id, cell in cells.items()}
    lost = grid.entries[0].cell
    records[lost.cell_id] = make_record(lost, "unfinished", metrics={"top1": 1.0})
    table = build_table(grid, records)
    assert table.top1 == pytest.approx(96.1)
    assert validation_caption(table) == (
        "355 validation images: a top-1 of 96.1 % (the mean here) has a binomial standard error of 1.03 points,"
        " which more seeds do not remove"
    )
    assert validation_caption(build_table(grid, {})) == "355 validation images"
    unknown = replace(table, setting=replace(table.setting, validation_images=None))
    assert "not known" in validation_caption(unknown)


def test_the_interval_is_explained_where_there_are_differences(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    records = records_of([grid])
    said = interval_caption(build_table(grid, records))
    assert "pairs" in said and '"[-]"' not in said
    one = own_grid(PAIRS.replace("seed: [0, 1, 2]", "seed: 0"), profile("digits"))
    assert '"[-]": one seed, hence no interval' in interval_caption(build_table(one, records))
    plain = own_grid("cells: {student: ResNet-50, loss: [ce, ls]}", profile("digits"))
    assert set(captions(build_table(plain, {}))) == {"Validation"}


# -- the paper's side -----------------------------------------------------------------------------------------------


def paper_for(tmp_path: Path, text: str) -> Path:
    (tmp_path / "mine.csv").write_text(text)
    return tmp_path


MINE = "cells: {student: ResNet-50, loss: [ce, ls]}\ntable: {rows: [loss], columns: [{header: Loss, axis: loss}, {header: A, metric: top1}], paper: mine}"  # noqa: E501


def test_figures_join_by_the_texts_of_the_key_columns_in_any_order(profile: Profiles, tmp_path: Path) -> None:
    folder = paper_for(tmp_path, "Loss,A\nls,71.30\nce,\n")
    table = build_table(own_grid(MINE, profile("digits")), {}, folder)
    assert [number(table, "A", row).paper for row in (0, 1)] == ["", "71.30"]
    assert table.paper == "mine.csv"


def test_a_column_called_std_is_the_spread_of_its_namesake(profile: Profiles, tmp_path: Path) -> None:
    folder = paper_for(tmp_path, "Loss,A,A std\nls,71.30,0.24\nce,70.1,\n")
    table = build_table(own_grid(MINE, profile("digits")), {}, folder)
    assert [(number(table, "A", row).paper, number(table, "A", row).paper_std) for row in (0, 1)] == [
        ("70.1", ""),
        ("71.30", "0.24"),
    ]
    assert table.headers == ("Loss", "A")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Loss,A\nce,1\nls,1\nkd,1\n", "row Loss=kd of .*mine.csv has no partner in table own"),
        ("Loss,A\nce,1\n", "row Loss=ls of table own has no partner in .*mine.csv"),
        ("Loss,A,B\nce,1,2\nls,1,2\n", 'column "B" of .*mine.csv has no partner in table own'),
        ("Loss\nce\nls\n", 'column "A" of table own has no partner in .*mine.csv'),
        ("A\n1\n", 'no column "Loss"'),
        ("Loss,A\nce,1\nce,2\n", "the row Loss=ce is there twice"),
        ("Loss,A\nce,1\nls\n", "mine.csv:3: 1 fields, the header has 2"),
        ("Loss,A\nce,about 70\nls,1\n", 'mine.csv:2: A: "about 70" is no number'),
        ("", "empty"),
        ("Loss,A,B std\nce,1,1\nls,1,1\n", 'mine.csv: "B std" is the standard deviation of no column'),
        ("Loss,A,A std,A std std\nce,1,1,1\nls,1,1,1\n", '"A std std" is the standard deviation of no column'),
        ("Loss,A,A std\nce,1,-0.1\nls,1,1\n", 'mine.csv:2: A std: "-0.1" is negative'),
        ("Loss,A,A std\nce,1,1\nls,,0.5\n", 'mine.csv:3: A std: "0.5" has no figure beside it'),
        ("Loss,A,A std\nce,1,small\nls,1,1\n", 'mine.csv:2: A std: "small" is no number'),
    ],
)
def test_whatever_has_no_partner_is_an_error(profile: Profiles, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_table(own_grid(MINE, profile("digits")), {}, paper_for(tmp_path, text))


def test_a_paper_table_that_is_not_there_is_an_error(profile: Profiles, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.csv: the paper's table cannot be read"):
        build_table(own_grid(MINE, profile("digits")), {}, tmp_path)
    with pytest.raises(InputError, match="is no plain name"):
        build_table(own_grid(MINE.replace("mine", "../mine"), profile("digits")), {}, tmp_path)
    assert build_table(own_grid(MINE, profile("digits")), {}).paper == ""
