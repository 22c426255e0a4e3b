"""Test the files of a report: their contents, that they load, and that equal records give equal bytes."""

import csv
import io
import math
import re
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from paper_records import PAPER, TABLES, all_grids, make_record, make_records, mixed_records, own_grid, table_grid
from rich.console import Console

from pld_grid.experiment.cell import ledger
from pld_grid.experiment.grid import Grid
from pld_grid.report.records_file import Origin
from pld_grid.report.report_files import render_report, write_report_files
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.report.table_notes import collect_notes
from pld_grid.report.terminal_table import print_table
from pld_grid.store.records import CellRecord
from pld_grid.util.errors import InputError

pytestmark = pytest.mark.slow


def write(grids: list[Grid], records: dict[str, CellRecord], folder: Path, paper: Path | None = PAPER) -> list[Path]:
    return write_report_files(folder, render_report(grids, records, Origin.from_grids(grids), paper))


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_files_of_equal_records_are_equal_and_not_rewritten(digits, tmp_path):
    grids = all_grids(digits, seeds=2)
    records = mixed_records(grids)
    written = write(grids, records, tmp_path / "a")
    pages = {"README.md", "provenance.csv", "index.html", "records.jsonl", "claims.md", "claims.csv"}
    tables = {f"{name}.{ext}" for name in TABLES for ext in ("md", "csv", "tex")}
    # These records have no epochs, hence neither curves nor a cost.
    names = ("figure1a", "figure1b", "figure2a", "figure2b")
    figures = {f"figures/{name}.{ext}" for name in names for ext in ("svg", "png", "csv")}
    assert {path.relative_to(tmp_path / "a").as_posix() for path in written} == pages | tables | figures
    times = {path: path.stat().st_mtime_ns for path in written}
    assert write(grids, records, tmp_path / "a") == []
    assert {path: path.stat().st_mtime_ns for path in written} == times
    # The order of the records does not matter.
    write(all_grids(digits, seeds=2), dict(reversed(records.items())), tmp_path / "b")
    files = read_folder(tmp_path / "a")
    assert files == read_folder(tmp_path / "b")
    data = b"".join(files.values())
    assert str(PAPER.parent.parent).encode() not in data and str(tmp_path).encode() not in data
    assert not re.search(rb"\b20\d\d-\d\d-\d\d\b", data)


def test_write_files_new_number_rewrites_only_affected_files(digits, tmp_path):
    grids = all_grids(digits)
    records = make_records(grids)
    write(grids, records, tmp_path)
    only_table_9 = next(e.cell for e in grids[8].entries if e.labels.get("divergence") == "js")
    records[only_table_9.cell_id] = make_record(only_table_9, metrics={"top1": 12.34})
    table = {"table09.md", "table09.csv", "table09.tex", "provenance.csv"}
    written = {path.name for path in write(grids, records, tmp_path)}
    assert written == table | {"claims.md", "claims.csv", "index.html", "records.jsonl"}


def test_render_report_refused_table_writes_nothing(digits, tmp_path):
    text = "cells: {student: ResNet-50, loss: [ce, ls]}\ntable: {rows: [student], columns: [{header: A, metric: top1}]}"
    with pytest.raises(InputError, match="ambiguous"):
        write([table_grid("table07", digits), own_grid(text, digits)], {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_write_files_removes_files_of_an_earlier_report_and_keeps_others(digits, tmp_path):
    both, one = [table_grid("table03", digits), table_grid("table07", digits)], [table_grid("table07", digits)]
    records = mixed_records(both)
    folder, alone = tmp_path / "report", tmp_path / "alone"
    write(both, records, folder)
    assert (folder / "table03.md").exists() and (folder / "figures/figure2a.svg").exists()
    (folder / "notes.md").write_text("mine")
    (folder / "figures" / "mine.svg").write_text("mine")
    write(one, records, folder)
    write(one, records, alone)
    assert read_folder(folder) == read_folder(alone) | {"notes.md": b"mine", "figures/mine.svg": b"mine"}
    # Without the list, nothing is known to be a report's.
    (folder / ".report-files").unlink()
    write(both, records, folder)
    (folder / ".report-files").unlink()
    write(one, records, folder)
    assert (folder / "table03.md").exists()


def test_write_files_edited_list_removes_nothing_elsewhere(digits, tmp_path):
    (tmp_path / "precious").write_text("mine")
    folder = tmp_path / "report"
    write([table_grid("table07", digits)], {}, folder)
    listed = ["../precious", str(tmp_path / "precious"), "figures/../../precious", "", ".", "absent"]
    (folder / ".report-files").write_text("\n".join(listed))
    assert write([table_grid("table07", digits)], {}, folder) == []
    assert (tmp_path / "precious").read_text() == "mine"


def test_write_files_unwritable_folder_is_input_error(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write([table_grid("table07", digits)], {}, tmp_path / "file")


@pytest.mark.parametrize("name", ["README", "provenance", "table07"])
def test_render_report_shared_file_name_is_refused(name, digits, tmp_path):
    grids = [table_grid("table07", digits), own_grid("cells: {student: ResNet-50, loss: ce}", digits, name)]
    with pytest.raises(InputError, match=f"a grid called {name}"):
        write(grids, {}, tmp_path)


# -- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_loads_without_options_and_states_its_setting(digits, tmp_path):
    grids = all_grids(digits)
    write(grids, make_records(grids), tmp_path)
    frames = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in TABLES}
    frame = frames["table07"]
    assert list(frame["Optimizer"]) == ["AdaBelief", "AdamW", "Adan", "Lamb (base)"]
    assert frame["PLD"].dtype == float and list(frame["PLD n"]) == [1] * 4
    assert list(frame["PLD paper"]) == [70.80, 70.85, 70.82, 71.16]
    assert set(frame["run profile"]) == {"digits"} and frame["run dataset"][0].startswith("digits at ")
    assert "MobileNetV4 Hybrid Large: " in frame["run models"][0]
    assert frame["run epochs"][0].endswith("(for 100)")


def test_csv_without_records_has_paper_figures_and_no_numbers(digits, tmp_path):
    write(all_grids(digits), {}, tmp_path)
    for name in TABLES:
        lines = read_lines(tmp_path / f"{name}.csv")
        for ours, printed in zip(lines, read_lines(PAPER / f"{name}.csv"), strict=True):
            for header, figure in printed.items():
                assert ours.get(f"{header} paper", ours[header]) in (figure, figure or "-")
            for header, text in ours.items():
                if header.endswith(" state") and text:
                    assert (text, ours[header.removesuffix(" state")]) == ("not run", "-")
    frame = pd.read_csv(tmp_path / "table07.csv")
    assert set(frame["PLD"]) == {"-"} and set(frame["PLD state"]) == {"not run"}


def test_csv_equal_headers_are_refused(digits, tmp_path):
    columns = "[{header: A, metric: top1}, {header: A std, metric: top5}]"
    text = f"cells: {{student: ResNet-50, loss: ce}}\ntable: {{rows: [loss], columns: {columns}}}"
    with pytest.raises(InputError, match='"A std"'):
        write([own_grid(text, digits)], {}, tmp_path, None)


def test_csv_columns_of_differences_have_intervals(digits, tmp_path):
    grid = table_grid("table07", digits, seeds=3)
    write([grid], make_records([grid]), tmp_path)
    frame = pd.read_csv(tmp_path / "table07.csv")
    assert [c for c in frame.columns if c.endswith(" low")] == [
        f"Delta_{loss}{kind} low" for loss in ("DIST", "KD") for kind in ("", " bootstrap")
    ]
    parts = ["", " std", " n", " low", " high", " bootstrap low", " bootstrap high", " paper", " difference", " state"]
    first = list(frame.columns).index("Delta_KD")
    assert list(frame.columns[first:]) == [f"Delta_KD{part}" for part in parts] + ["code versions"]
    table = build_table(grid, make_records([grid]), PAPER)
    for row, line in zip(table.rows, frame.itertuples(), strict=True):
        value = row.cells[table.headers.index("Delta_KD")]
        half = 4.302653 * value.std / 3**0.5
        bounds = [value.mean - half, value.mean + half, min(value.numbers)]
        assert list(line[first + 4 : first + 7]) == pytest.approx(bounds, abs=0.006)


def test_csv_columns_are_independent_of_seeds_and_states(digits, tmp_path):
    for folder, seeds in (("one", 1), ("three", 3), ("none", None)):
        grids = all_grids(digits, seeds)
        write(grids, {} if seeds is None else mixed_records(grids), tmp_path / folder)
    for name in TABLES:
        columns = {tuple(pd.read_csv(tmp_path / folder / f"{name}.csv").columns) for folder in ("one", "three", "none")}
        assert len(columns) == 1
    frame = pd.read_csv(tmp_path / "one" / "table07.csv")
    assert {text for c in frame.columns if re.search(" (low|high)$", c) for text in frame[c]} == {"-"}


def test_printed_std_appears_in_csv_markdown_and_terminal(digits, tmp_path):
    (tmp_path / "mine.csv").write_text("loss,KD,KD std,CE\nboth,72.44,0.36,70.26\n")
    text = """
cells: {teacher: ResNet-152, student: ResNet-50, loss: [ce, kd], seed: [0, 1]}
table:
  rows: [student]
  columns:
    - {header: loss, axis: student, names: {ResNet-50: both}}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: CE, metric: top1, where: {loss: ce}}
  paper: mine
"""
    grid = own_grid(text, digits)
    write([grid], make_records([grid]), tmp_path / "out", tmp_path)
    (row,) = read_lines(tmp_path / "out" / "own.csv")
    assert (row["KD paper"], row["KD paper std"], row["CE paper"]) == ("72.44", "0.36", "70.26")
    assert "CE paper std" not in row
    assert "<sub>72.44 ± 0.36 · " in (tmp_path / "out" / "own.md").read_text()
    assert "72.44 ± 0.36" in print_to_text(build_table(grid, {}, tmp_path))


# -- provenance -----------------------------------------------------------------------------------------------------


def test_provenance_traces_each_number_to_its_cells(digits, tmp_path):
    grids = all_grids(digits, seeds=2)
    records = mixed_records(grids)
    write(grids, records, tmp_path)
    numbers: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for line in read_lines(tmp_path / "provenance.csv"):
        numbers[tuple(line[k] for k in ("table", "row", "column", "seed"))].append(line)
        record = records.get(line["cell_id"])
        if record is None:
            assert line["state"] == "not run" and line["cell_value"] == "-"
            continue
        assert (line["mlflow_run_id"], line["commit"]) == (record.run_id, record.commit)
        if line["metric"] == "parameters":
            assert float(line["cell_value"]) * 1e6 == pytest.approx(record.parameters)
        elif record.state == "finished":
            assert float(line["cell_value"]) == record.metrics[line["metric"]]
        else:
            assert line["state"].startswith(record.state) and line["cell_value"] == "-"
    for lines in numbers.values():
        assert len({line["number"] for line in lines}) == 1
        if any(line["cell_value"] == "-" for line in lines):
            assert lines[0]["number"] == "-"
        else:
            terms = [float(line["cell_value"]) * (1 if line["sign"] == "+" else -1) for line in lines]
            assert float(lines[0]["number"]) == math.fsum(terms)
    tables = [build_table(grid, records, PAPER) for grid in grids]
    assert len(numbers) == sum(value.planned for table in tables for value in table.values)


# -- Markdown -------------------------------------------------------------------------------------------------------


def test_markdown_tables_have_rows_of_equal_length(profile, tmp_path):
    """A bar that is not escaped would silently cut a cell off on a git host."""
    grids = all_grids(profile("imagenet"), seeds=2)
    write(grids, mixed_records(grids, reason="a | b <c> *d*"), tmp_path)
    for path in tmp_path.glob("*.md"):
        for block in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_markdown_shows_ours_paper_and_difference(digits, tmp_path):
    grid = table_grid("table09", digits, seeds=2)
    records = make_records([grid])
    forward = [e.cell for e in grid.entries if e.labels.get("divergence") == "forward"]
    for cell, top1 in zip(forward, (90.0, 91.0), strict=True):
        records[cell.cell_id] = make_record(cell, metrics={"top1": top1})
    write([grid], records, tmp_path)
    text = (tmp_path / "table09.md").read_text()
    assert "| Forward KL | **90.50** ± 0.71 (2)<br><sub>68.46 · +22.04</sub> |" in text
    assert "not the paper's experiments" in text and "for the paper's 100" in text
    assert "<br>MobileNetV4 Hybrid Large: `" in text and "0, 1 (n = 2)" in text


def test_markdown_in_the_paper_setting_has_no_warning(profile, tmp_path):
    write([table_grid("table01", profile("imagenet"))], {}, tmp_path)
    text = (tmp_path / "table01.md").read_text()
    assert "not the paper's experiments" not in text
    assert "`resnet152.gluon_in1k`" in text and "published weights" in text
    assert "one seed, so no standard deviation" in text and "-<br><sub>not run</sub><br><sub>71.35</sub>" in text


def test_markdown_of_one_seed_explains_missing_intervals(digits, tmp_path):
    grid = table_grid("table07", digits)
    records = make_records([grid])
    del records[grid.entries[0].cell.cell_id]
    write([grid], records, tmp_path)
    text = (tmp_path / "table07.md").read_text()
    assert "no standard deviation" in text and '"\\[-\\]": no interval, as there is only one seed' in text
    row = next(line for line in text.splitlines() if line.startswith("| AdamW "))
    assert len(re.findall(r"\| \*\*-?[\d.]+\*\*<br><sub>\\\[-\\\]</sub><br><sub>[\d.]+ · ", row)) == 2
    # A number that does not exist at all has a state and no interval.
    assert "| -<br><sub>not run</sub><br><sub>0.89</sub> |" in text


def test_markdown_lists_each_missing_cell_once(digits, tmp_path):
    grid = table_grid("table09", digits)
    records = make_records([grid])
    cell = next(e.cell for e in grid.entries if e.labels.get("divergence") == "js")
    records[cell.cell_id] = make_record(cell, "failed", reason="a | b <c>\nd")
    write([grid], records, tmp_path)
    text = (tmp_path / "table09.md").read_text()
    assert text.count(cell.cell_id) == 1
    assert f"- Divergence=Jensen-Shannon, KD Top-1: failed: a \\| b &lt;c&gt; d (cell `{cell.cell_id}`)" in text
    assert "-<br><sub>failed</sub><br><sub>69.83</sub>" in text


def test_readme_counts_cells_and_lists_open_questions(profile, tmp_path):
    grids = all_grids(profile("imagenet"))
    records = make_records(grids)
    lost = next(e.cell for e in grids[6].entries)
    records[lost.cell_id] = make_record(lost, "failed", reason="x")
    write(grids, records, tmp_path)
    text = (tmp_path / "README.md").read_text()
    for name in TABLES:
        assert f"({name}.md) ([CSV]({name}.csv), [LaTeX]({name}.tex))" in text
    assert "| 18 of 20 | 12 of 13 | 1 failed |" in text
    assert "79 of 80 distinct students and 6 of 6 teachers are finished" in text
    assert all(f"| `{entry.field}` |" in text for entry in ledger())
    assert "ix_e600_r384_in1k" in text and "provenance.csv" in text
    headings = ["The paper's claims", "Figures", "What the paper leaves open"]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == headings


def test_report_of_own_grid_has_no_paper(digits, tmp_path):
    grid = own_grid("cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}", digits)
    write([grid], make_records([grid]), tmp_path, None)
    assert "paper's figure as printed" not in (tmp_path / "own.md").read_text()
    frame = pd.read_csv(tmp_path / "own.csv")
    assert not [c for c in frame.columns if c.endswith((" paper", " difference"))] and len(frame) == 2


# -- several code versions ------------------------------------------------------------------------------------------


def test_report_with_other_version_and_lost_cell_shows_both(digits, tmp_path):
    grid, other = (table_grid(name, digits, seeds=3) for name in ("table09", "table10"))
    records = make_records([grid, other])
    js, forward = (
        next(e.cell for e in grid.entries if e.labels.get("divergence") == divergence and e.cell.seed == 1)
        for divergence in ("js", "forward")
    )
    records[js.cell_id] = make_record(js, commit="89abcdef0123-dirty")
    records[forward.cell_id] = make_record(forward, "lost", reason="its worker died repeatedly")
    write([grid, other], records, tmp_path)
    text = (tmp_path / "table09.md").read_text()
    assert re.search(r"\| Jensen-Shannon \| \*\*[\d.]+\*\*† ± [\d.]+ \(3\)<br>", text)
    assert re.search(r"\| Reverse KL \| \*\*[\d.]+\*\* ± [\d.]+ \(3\)<br>", text)
    assert re.search(r"\| Forward KL \| \*\*[\d.]+\*\* ± [\d.]+ \(2\)<br><sub>n = 2 of 3</sub>", text)
    assert "1 cell by commit 89abcdef01 (had uncommitted changes)" in text
    assert "KD Top-1, seed 1: lost: its worker died repeatedly (cell " in text
    assert re.findall(r"^- \[.*\]\((.*)\)$", (tmp_path / "README.md").read_text(), re.MULTILINE) == ["table09.md"]
    frame = pd.read_csv(tmp_path / "table09.csv")
    by_row = dict(zip(frame["Divergence"], frame["code versions"], strict=True))
    assert by_row.pop("Jensen-Shannon") == "0123abc; 89abcdef01-dirty" and set(by_row.values()) == {"0123abc"}
    write([grid], {}, tmp_path)
    assert set(pd.read_csv(tmp_path / "table09.csv")["code versions"]) == {"-"}
    assert "more than one code version" not in (tmp_path / "README.md").read_text()


# -- terminal -------------------------------------------------------------------------------------------------------


def print_to_text(table: Table) -> str:
    output = io.StringIO()
    print_table(table, Console(file=output, width=200))
    return output.getvalue()


def test_terminal_shows_numbers_states_and_setting(digits):
    grid = table_grid("table07", digits)
    unfinished = grid.entries[0].cell
    records = make_records([grid]) | {unfinished.cell_id: make_record(unfinished, "unfinished", epoch=1)}
    text = print_to_text(build_table(grid, records, PAPER))
    assert f"unfinished (epoch 1 of {unfinished.epochs})" in text and "71.16 (" in text
    assert "Not the paper's experiments" in text and "Profile digits" in text


def test_terminal_shows_spread_interval_mark_and_notes(digits):
    grid = table_grid("table07", digits, seeds=2)
    other = next(e.cell for e in grid.entries if e.labels["loss"] == "kd")
    records = make_records([grid]) | {other.cell_id: make_record(other, commit="fedcba98765")}
    table = build_table(grid, records, PAPER)
    text = print_to_text(table)
    value = table.rows[1].cells[table.headers.index("Delta_KD")]
    assert f" {value.mean:.2f} ± {value.std:.2f} (2) " in text
    assert f"[{value.interval.low:.2f}, {value.interval.high:.2f}]" in text
    assert re.search(r"\d\.\d\d† ± ", text)
    assert "ours: mean ± sample standard deviation (number of seeds); below: the paper's" in text
    assert all(note in text for note in collect_notes(table).values())
