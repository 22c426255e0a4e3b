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
from pld_grid.report import Value, build_table, print_table, write_report
from pld_grid.report.caption import captions
from pld_grid.report.index import index_markdown
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
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_records_make_equal_bytes_and_twice_changes_nothing(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"), seeds=2)
    records = patchy(grids)
    written = write_report(grids, records, tmp_path / "a", PAPER)
    pages = {"README.md", "provenance.csv", "index.html", "records.jsonl", "claims.md", "claims.csv"}
    tables = {f"{name}.{ext}" for name in TABLES for ext in ("md", "csv", "tex")}
    # These records have no epochs, hence neither curves nor a cost.
    names = ("figure1a", "figure1b", "figure2a", "figure2b")
    figures = {f"figures/{name}.{ext}" for name in names for ext in ("svg", "png", "csv")}
    assert {path.relative_to(tmp_path / "a").as_posix() for path in written} == pages | tables | figures
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
    table = {"table09.md", "table09.csv", "table09.tex", "provenance.csv"}
    assert {p.name for p in written} == table | {"claims.md", "claims.csv", "index.html", "records.jsonl"}


def test_files_name_no_machine_path_or_time(profile: Profiles, tmp_path: Path) -> None:
    grids = all_grids(profile("digits"))
    write_report(grids, patchy(grids), tmp_path, PAPER)
    data = b"".join(contents(tmp_path).values())
    assert str(PAPER.parent.parent).encode() not in data and str(tmp_path).encode() not in data
    assert not re.search(rb"\b20\d\d-\d\d-\d\d\b", data)


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


def test_csv_has_intervals_where_a_column_holds_differences(profile: Profiles, tmp_path: Path) -> None:
    grid = table_grid("table07", profile("digits"), seeds=3)
    write_report([grid], records_of([grid]), tmp_path, PAPER)
    frame = pd.read_csv(tmp_path / "table07.csv")
    assert [c for c in frame.columns if c.endswith(" low")] == [
        f"Delta_{loss}{kind} low" for loss in ("DIST", "KD") for kind in ("", " bootstrap")
    ]
    parts = ["", " std", " n", " low", " high", " bootstrap low", " bootstrap high", " paper", " difference", " state"]
    first = list(frame.columns).index("Delta_KD")
    assert list(frame.columns[first:]) == [f"Delta_KD{part}" for part in parts] + ["code versions"]
    table = build_table(grid, records_of([grid]), PAPER)
    for row, line in zip(table.rows, frame.itertuples(), strict=True):
        value = row.cells[table.headers.index("Delta_KD")]
        assert isinstance(value, Value) and value.interval is not None and value.std is not None
        half = 4.302653 * value.std / 3**0.5
        assert line[first + 4] == pytest.approx(value.mean - half, abs=0.006)
        assert line[first + 5] == pytest.approx(value.mean + half, abs=0.006)
        assert line[first + 6] == pytest.approx(min(value.numbers), abs=0.006)


def test_csv_has_the_same_columns_whatever_the_seeds_and_the_states(profile: Profiles, tmp_path: Path) -> None:
    for folder, seeds in (("one", 1), ("three", 3), ("none", None)):
        grids = all_grids(profile("digits"), seeds)
        write_report(grids, {} if seeds is None else patchy(grids), tmp_path / folder, PAPER)
    for name in TABLES:
        columns = {tuple(pd.read_csv(tmp_path / folder / f"{name}.csv").columns) for folder in ("one", "three", "none")}
        assert len(columns) == 1
    frame = pd.read_csv(tmp_path / "one" / "table07.csv")
    assert {text for c in frame.columns if re.search(" (low|high)$", c) for text in frame[c]} == {"-"}


def test_csv_keeps_the_papers_deviation_where_it_prints_one(profile: Profiles, tmp_path: Path) -> None:
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
    grid = own_grid(text, profile("digits"))
    write_report([grid], records_of([grid]), tmp_path / "out", tmp_path)
    with (tmp_path / "out" / "own.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["KD paper"], row["KD paper std"], row["CE paper"]) == ("72.44", "0.36", "70.26")
    assert "CE paper std" not in row
    assert "<sub>72.44 ± 0.36 · " in (tmp_path / "out" / "own.md").read_text()
    console = Console(file=io.StringIO(), width=160)
    print_table(build_table(grid, {}, tmp_path), console)
    assert "72.44 ± 0.36" in console.file.getvalue()  # type: ignore[attr-defined]


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
    assert "| Forward KL | **90.50** ± 0.71 (2)<br><sub>68.46 · +22.04</sub> |" in text
    assert "not the paper's experiments" in text and "for the paper's 100" in text
    assert "<br>MobileNetV4 Hybrid Large: `" in text and "0, 1 (n = 2)" in text


def test_markdown_of_the_papers_scale_makes_no_excuse(profile: Profiles, tmp_path: Path) -> None:
    write_report([table_grid("table01", profile("imagenet"))], {}, tmp_path, PAPER)
    text = (tmp_path / "table01.md").read_text()
    assert "not the paper's experiments" not in text
    assert "`resnet152.gluon_in1k`" in text and "published weights" in text
    assert "n = 1: one seed" in text and "-<br><sub>not run</sub><br><sub>71.35</sub>" in text


def test_markdown_of_one_seed_says_that_it_has_no_interval(profile: Profiles, tmp_path: Path) -> None:
    grid = table_grid("table07", profile("digits"))
    records = records_of([grid])
    del records[grid.entries[0].cell.cell_id]
    write_report([grid], records, tmp_path, PAPER)
    text = (tmp_path / "table07.md").read_text()
    assert "no standard deviation and no interval" in text and '"\\[-\\]": one seed, hence no interval' in text
    row = next(line for line in text.splitlines() if line.startswith("| AdamW "))
    assert len(re.findall(r"\| \*\*-?[\d.]+\*\*<br><sub>\\\[-\\\]</sub><br><sub>[\d.]+ · ", row)) == 2
    # Where there is no number at all, its state says enough.
    assert "| -<br><sub>not run</sub><br><sub>0.89</sub> |" in text


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
        assert f"({name}.md) ([CSV]({name}.csv), [LaTeX]({name}.tex))" in text
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


def test_index_takes_more_sections_before_the_ledger(profile: Profiles) -> None:
    table = build_table(table_grid("table07", profile("digits")), {}, PAPER)
    text = index_markdown([table], ["## Claims\n\nThree.", "## Figures"])
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings == ["Claims", "Figures", "What the paper leaves open"] and "## Claims\n\nThree.\n\n" in text
    assert index_markdown([table]).replace("\n", "") == re.sub("## Claims.*## Figures", "", text.replace("\n", ""))


# -- mixed results --------------------------------------------------------------------------------------------------


def mixed(profile: Profile) -> tuple[Grid, dict[str, Record]]:
    """Table 9 under three seeds: one of its cells is of another commit, one is stale."""
    grid = table_grid("table09", profile, seeds=3)
    records = records_of([grid])
    js, forward = (
        next(e.cell for e in grid.entries if e.labels.get("divergence") == divergence and e.cell.seed == 1)
        for divergence in ("js", "forward")
    )
    records[js.cell_id] = make_record(js, commit="89abcdef0123-dirty")
    records[forward.cell_id] = make_record(forward, "stale", reason="finished under spec version 1, now 2")
    return grid, records


def test_mixed_and_stale_results_are_seen_in_markdown(profile: Profiles, tmp_path: Path) -> None:
    grid, records = mixed(profile("digits"))
    write_report([grid], records, tmp_path, PAPER)
    text = (tmp_path / "table09.md").read_text()
    assert re.search(r"\| Jensen-Shannon \| \*\*[\d.]+\*\*† ± [\d.]+ \(3\)<br>", text)
    assert re.search(r"\| Reverse KL \| \*\*[\d.]+\*\* ± [\d.]+ \(3\)<br>", text)
    assert re.search(r"\| Forward KL \| \*\*[\d.]+\*\* ± [\d.]+ \(2\)<br><sub>n = 2 of 3</sub>", text)
    assert "1 cell by commit 89abcdef01 (had uncommitted changes)" in text
    assert "KD Top-1, seed 1: stale: finished under spec version 1, now 2 (cell " in text


def test_index_names_mixed_tables(profile: Profiles) -> None:
    grid, records = mixed(profile("digits"))
    other = table_grid("table10", profile("digits"), seeds=3)
    tables = [build_table(grid, records, PAPER), build_table(other, records_of([other]), PAPER)]
    text = index_markdown(tables)
    assert re.findall(r"^- \[.*\]\((.*)\)$", text, re.MULTILINE) == ["table09.md"]
    assert "More than one version" not in index_markdown(tables[1:])


def test_csv_lists_each_rows_versions(profile: Profiles, tmp_path: Path) -> None:
    grid, records = mixed(profile("digits"))
    write_report([grid], records, tmp_path, PAPER)
    frame = pd.read_csv(tmp_path / "table09.csv")
    by_row = dict(zip(frame["Divergence"], frame["code versions"], strict=True))
    assert by_row.pop("Jensen-Shannon") == "0123abc; 89abcdef01-dirty" and set(by_row.values()) == {"0123abc"}
    write_report([grid], {}, tmp_path, PAPER)
    assert set(pd.read_csv(tmp_path / "table09.csv")["code versions"]) == {"-"}


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


def test_terminal_shows_spread_interval_mark_and_captions(profile: Profiles) -> None:
    grid = table_grid("table07", profile("digits"), seeds=2)
    records = records_of([grid])
    other = next(e.cell for e in grid.entries if e.labels["loss"] == "kd")
    records[other.cell_id] = make_record(other, commit="fedcba98765")
    console = Console(file=io.StringIO(), width=200)
    table = build_table(grid, records, PAPER)
    print_table(table, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    value = table.rows[1].cells[table.headers.index("Delta_KD")]
    assert isinstance(value, Value) and value.interval is not None
    assert f" {value.mean:.2f} ± {value.std:.2f} (2) " in text
    assert f"[{value.interval.low:.2f}, {value.interval.high:.2f}]" in text
    assert re.search(r"\d\.\d\d† ± ", text)
    assert "ours: mean ± sample standard deviation (number of seeds); below: the paper's" in text
    for caption in captions(table).values():
        assert caption in text


def test_reports_need_no_torch_ray_or_mlflow() -> None:
    code = "import sys, pld_grid.report; print([m for m in ('torch', 'ray', 'mlflow', 'timm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
