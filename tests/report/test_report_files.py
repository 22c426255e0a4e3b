"""The files of a report: what they say, that they load, and that equal records make equal bytes."""

import csv
import io
import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from synthetic import PAPER, TABLES, all_grids, make_record, own_grid, records_of, table_grid

from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import build_table, print_table, write_report
from pld_grid.spec import ledger

Profiles = Callable[[str], Profile]
STATES = ("failed", "diverged", "unfinished", "cancelled")


def patchy(grids: list[Grid]) -> dict[str, Record]:
    """Records of every state, and some missing."""
    records = records_of(grids)
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    for place, cell_id in enumerate(sorted(records)):
        if place % 5 == 0:
            state = STATES[place // 5 % 4]
            reason = "a | b <c> *d*" if state in ("failed", "diverged") else ""
            records[cell_id] = make_record(cells[cell_id], state, reason=reason, epoch=1)
        elif place % 5 == 1:
            del records[cell_id]
    return records


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_records_make_equal_bytes_and_twice_changes_nothing(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"), seeds=2)
    records = patchy(grids)
    written = write_report(grids, records, tmp_path / "a", PAPER)
    assert {path.name for path in written} == {"README.md", "provenance.csv"} | {
        f"{name}.{ext}" for name in TABLES for ext in ("md", "csv")
    }
    before = {path: path.stat().st_mtime_ns for path in written}
    assert write_report(grids, records, tmp_path / "a", PAPER) == []
    assert {path: path.stat().st_mtime_ns for path in written} == before
    # The order in which records arrive is no part of them.
    write_report(all_grids(profile("digits"), seeds=2), dict(reversed(records.items())), tmp_path / "b", PAPER)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_what_a_new_number_touches_is_rewritten(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"))
    records = records_of(grids)
    write_report(grids, records, tmp_path, PAPER)
    only_table_9 = next(e.cell for e in grids[8].entries if e.labels.get("divergence") == "js")
    changed = make_record(only_table_9, metrics={"top1": 12.34})
    written = write_report(grids, {**records, only_table_9.cell_id: changed}, tmp_path, PAPER)
    assert {p.name for p in written} == {"table09.md", "table09.csv", "provenance.csv"}


def test_files_name_no_machine_path_or_time(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"))
    write_report(grids, patchy(grids), tmp_path, PAPER)
    text = b"".join(contents(tmp_path).values()).decode()
    assert str(PAPER.parent.parent) not in text and str(tmp_path) not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text)


def test_nothing_is_written_if_one_table_cannot_be_built(profile: Profiles, tmp_path: Path) -> None:
    good = table_grid("table07", profile("digits"))
    bad = own_grid(
        "cells: {student: ResNet-50, loss: [ce, ls]}\ntable: {rows: [student], columns: [{header: A, metric: top1}]}",
        profile("digits"),
    )
    with pytest.raises(InputError, match="ambiguous"):
        write_report([good, bad], {}, tmp_path / "out", PAPER)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_one_clear_error(profile: Profiles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report([table_grid("table07", profile("digits"))], {}, tmp_path / "file", PAPER)


@pytest.mark.parametrize("name", ["README", "provenance", "table07"])
def test_grids_that_would_share_a_file_are_refused(name: str, profile: Profiles, tmp_path: Path) -> None:
    grids = [
        table_grid("table07", profile("digits")),
        own_grid("cells: {student: ResNet-50, loss: ce}", profile("digits"), name),
    ]
    with pytest.raises(InputError, match=f"a grid called {name}"):
        write_report(grids, {}, tmp_path, PAPER)


# -- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_loads_without_options_and_says_its_scale(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"))
    write_report(grids, records_of(grids), tmp_path, PAPER)
    frame = pd.read_csv(tmp_path / "table07.csv")
    assert list(frame["Optimizer"]) == ["AdaBelief", "AdamW", "Adan", "Lamb (base)"]
    assert frame["PLD"].dtype == float and list(frame["PLD n"]) == [1] * 4
    assert list(frame["PLD paper"]) == [70.80, 70.85, 70.82, 71.16]
    assert set(frame["run profile"]) == {"digits"} and frame["run dataset"][0].startswith("digits at ")
    assert "MobileNetV4 Hybrid Large: " in frame["run models"][0]
    assert frame["run epochs"][0].endswith("(for 100)")
    for name in TABLES:
        pd.read_csv(tmp_path / f"{name}.csv")


def test_csv_keeps_the_papers_figures_as_printed(profile: Profiles, tmp_path: Path) -> None:
    write_report(all_grids(profile("digits")), {}, tmp_path, PAPER)
    for name in TABLES:
        ours = list(csv.DictReader(io.StringIO((tmp_path / f"{name}.csv").read_text())))
        theirs = list(csv.DictReader(io.StringIO((PAPER / f"{name}.csv").read_text())))
        for mine, printed in zip(ours, theirs, strict=True):
            for header, figure in printed.items():
                assert mine.get(f"{header} paper", mine[header]) in (figure, figure or "-")


def test_a_missing_number_is_never_blank_or_zero(profile: Profiles, tmp_path: Path) -> None:
    write_report(all_grids(profile("digits")), {}, tmp_path, PAPER)
    for name in TABLES:
        for row in csv.DictReader(io.StringIO((tmp_path / f"{name}.csv").read_text())):
            for header, text in row.items():
                if header.endswith(" state") and text:
                    ours = header.removesuffix(" state")
                    assert (text, row[ours]) == ("not run", "-")
    frame = pd.read_csv(tmp_path / "table07.csv")
    assert set(frame["PLD"]) == {"-"} and set(frame["PLD state"]) == {"not run"}


def test_columns_that_would_be_called_the_same_are_refused(profile: Profiles, tmp_path: Path) -> None:
    text = "cells: {student: ResNet-50, loss: ce}\ntable: {rows: [loss], columns: [{header: A, metric: top1}, {header: A std, metric: top5}]}"  # noqa: E501
    with pytest.raises(InputError, match='"A std"'):
        write_report([own_grid(text, profile("digits"))], {}, tmp_path)


# -- provenance -----------------------------------------------------------------------------------------------------


def test_provenance_leads_from_each_number_to_its_cells(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"), seeds=2)
    records = patchy(grids)
    write_report(grids, records, tmp_path, PAPER)
    numbers: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for line in csv.DictReader(io.StringIO((tmp_path / "provenance.csv").read_text())):
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
            parts = [float(line["cell_value"]) * (1 if line["sign"] == "+" else -1) for line in lines]
            assert float(lines[0]["number"]) == math.fsum(parts)
    tables = [build_table(grid, records, PAPER) for grid in grids]
    assert len(numbers) == sum(value.wanted for table in tables for value in table.values)


# -- Markdown -------------------------------------------------------------------------------------------------------


def test_markdown_tables_are_whole(profile: Profiles, tmp_path: Path) -> None:
    """A bar that is not escaped would silently cut a cell off on a git host."""
    grids = all_grids(profile("imagenet"), seeds=2)
    write_report(grids, patchy(grids), tmp_path, PAPER)
    for path in tmp_path.glob("*.md"):
        for block in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_markdown_says_ours_the_papers_and_the_difference(profile: Profiles, tmp_path: Path) -> None:
    grid = table_grid("table09", profile("digits"), seeds=2)
    records = records_of([grid])
    forward = [e.cell for e in grid.entries if e.labels.get("divergence") == "forward"]
    for cell, top1 in zip(forward, (90.0, 91.0), strict=True):
        records[cell.cell_id] = make_record(cell, metrics={"top1": top1})
    write_report([grid], records, tmp_path, PAPER)
    text = (tmp_path / "table09.md").read_text()
    assert "| Forward KL | **90.50** ± 0.71<br><sub>68.46 · +22.04</sub> |" in text
    assert "not the paper's experiments" in text and "for the paper's 100" in text
    assert "<br>MobileNetV4 Hybrid Large: `" in text and "0, 1 (n = 2)" in text


def test_markdown_of_the_papers_scale_makes_no_excuse(profile: Profiles, tmp_path: Path) -> None:
    write_report([table_grid("table01", profile("imagenet"))], {}, tmp_path, PAPER)
    text = (tmp_path / "table01.md").read_text()
    assert "not the paper's experiments" not in text
    assert "`resnet152.gluon_in1k`" in text and "published weights" in text
    assert "n = 1: one seed" in text and "-<br><sub>not run</sub><br><sub>71.35</sub>" in text


def test_markdown_lists_why_cells_are_missing_once_each(profile: Profiles, tmp_path: Path) -> None:
    grid = table_grid("table09", profile("digits"))
    records = records_of([grid])
    cell = next(e.cell for e in grid.entries if e.labels.get("divergence") == "js")
    records[cell.cell_id] = make_record(cell, "failed", reason="a | b <c>\nd")
    write_report([grid], records, tmp_path, PAPER)
    text = (tmp_path / "table09.md").read_text()
    assert text.count(cell.cell_id) == 1
    assert f"- Divergence=Jensen-Shannon, KD Top-1: failed: a \\| b &lt;c&gt; d (cell `{cell.cell_id}`)" in text
    assert "-<br><sub>failed</sub><br><sub>69.83</sub>" in text


def test_index_counts_cells_and_prints_the_ledger(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("imagenet"))
    records = records_of(grids)
    lost = next(e.cell for e in grids[6].entries)
    records[lost.cell_id] = make_record(lost, "failed", reason="x")
    write_report(grids, records, tmp_path, PAPER)
    text = (tmp_path / "README.md").read_text()
    for name in TABLES:
        assert f"({name}.md) ([CSV]({name}.csv))" in text
    assert "| 18 of 20 | 12 of 13 | 1 failed |" in text
    assert "79 of 80 distinct students and 6 of 6 teachers are finished" in text
    assert all(f"| `{entry.field}` |" in text for entry in ledger())
    assert "ix_e600_r384_in1k" in text and "provenance.csv" in text


def test_own_grids_get_a_report_without_paper(profile: Profiles, tmp_path: Path) -> None:
    grid = own_grid("cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}", profile("digits"))
    write_report([grid], records_of([grid]), tmp_path)
    assert "paper's figure as printed" not in (tmp_path / "own.md").read_text()
    frame = pd.read_csv(tmp_path / "own.csv")
    assert not [c for c in frame.columns if c.endswith((" paper", " difference"))] and len(frame) == 2


# -- terminal -------------------------------------------------------------------------------------------------------


def test_terminal_shows_numbers_states_and_scale(profile: Profiles) -> None:
    grid = table_grid("table07", profile("digits"))
    records = records_of([grid])
    lost = grid.entries[0].cell
    records[lost.cell_id] = make_record(lost, "unfinished", epoch=1)
    console = Console(file=io.StringIO(), width=160)
    print_table(build_table(grid, records, PAPER), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"unfinished (epoch 1 of {lost.epochs})" in text and "71.16 (" in text
    assert "Not the paper's experiments" in text and "profile digits" in text


def test_reports_need_no_torch_ray_or_mlflow() -> None:
    code = "import sys, pld_grid.report; print([m for m in ('torch', 'ray', 'mlflow', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
