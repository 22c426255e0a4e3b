"""The command line in this process: its output, and one line with an exit code for each error."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from cli_process import run_python
from paths import ROOT

import pld_grid
from pld_grid.service import workspace

GRID = "cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}\n"


def _grid(text: str = GRID, name: str = "mine.yaml") -> str:
    Path(name).write_text(text)
    return name


TABLES = sorted(str(path) for path in (ROOT / "grids").glob("table*.yaml"))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        # Counted by hand in test_paper_tables.py: 122 uses, 80 distinct students, six teachers.
        ("imagenet", {"teacher_cells": 0, "teacher_measurements": 6, "waves": 1, "pending": 86}),
        ("digits", {"teacher_cells": 6, "teacher_measurements": 0, "waves": 2, "pending": 86}),
    ],
)
def test_plan_of_all_tables_counts_shared_cells_once(run, profile, expected):
    code, out, err = run("plan", *TABLES, "--profile", profile, "--json", "--slots", "1")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary.items() >= {"entries": 122, "student_cells": 80, "finished": 0, **expected}.items()
    # One cohort per teacher and length (Table 5 has both), and one for the teachers themselves.
    assert summary["cohorts"] == 8
    assert not Path(".pld_grid").exists()


def test_plan_without_json_prints_a_table(run):
    code, out, _ = run("plan", _grid())
    assert code == 0
    assert "distinct student cells" in out
    assert "wave 2:" in out


def test_plan_beyond_the_limit_names_max_cells(run):
    grid = _grid(GRID.replace("[kd, pld]", "kd, seed: [" + ", ".join(map(str, range(2001))) + "]"))
    code, _, err = run("plan", grid)
    assert code == 2
    assert "expands to 2001 cells, more than the limit of 2000 (--max-cells raises it)" in err
    assert run("plan", grid, "--max-cells", "3000")[0] == 0


def test_report_before_any_run_shows_not_run(run):
    code, out, err = run("report", _grid(), "--out", "tables")
    assert (code, err) == (0, "")
    assert "7 files written" in out
    assert "not run" in Path("tables/mine.md").read_text()


def test_ui_of_a_server_prints_its_address_without_password(run):
    code, out, _ = run("ui", "--tracking-uri", "http://someone:secret@mlflow.example:5000")
    assert code == 0
    assert "mlflow.example:5000" in out
    assert "secret" not in out


def test_help_lists_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("plan", "run", "report", "sync", "ui"))


def test_code_version_is_the_commit_or_the_variable(monkeypatch):
    monkeypatch.setenv("PLD_GRID_COMMIT", "built-from-1234")
    assert workspace.code_version() == "built-from-1234"
    # A surrogate cannot be encoded in a receipt.
    monkeypatch.setenv("PLD_GRID_COMMIT", "built\udcff")
    assert workspace.code_version() == r"built\udcff"
    monkeypatch.delenv("PLD_GRID_COMMIT")
    assert len(workspace.code_version().removesuffix("-dirty")) in (0, 40)


def test_package_exports_what_the_readme_calls(run):
    grids = pld_grid.load_grids([ROOT / "grids" / "table07.yaml"], profile="digits")
    assert pld_grid.plan(grids).summary()["student_cells"] == 12
    assert pld_grid.write_report(grids, "tables")
    assert all(callable(getattr(pld_grid, name)) for name in pld_grid.__all__)


def test_run_rejects_a_table_that_cannot_be_built(run):
    grid = _grid(GRID + "table: {rows: [student], columns: [{header: Top-1, metric: top1}]}\n")
    code, out, err = run("run", grid)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Top-1" in err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


REPORT_LIBRARIES = {"torch", "ray", "mlflow", "timm", "scipy", "matplotlib", "jinja2"}


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("pld_grid.cli, pld_grid.orchestrate.ray_jobs, pld_grid.service.runner", {"torch", "ray", "mlflow", "pandas"}),
        # So that --help, --version and completion are quick.
        ("pld_grid.cli", {"pydantic", "yaml", "jinja2", "fsspec", "numpy"}),
        ("pld_grid.track.background_sync, pld_grid.track.mirrored_records", {"torch", "mlflow"}),
        *((f"pld_grid.report{name}", REPORT_LIBRARIES) for name in ("", ".claims", ".figures", ".html_page")),
    ],
)
def test_import_loads_no_large_libraries(modules, unwanted):
    assert run_python(f"import sys, pld_grid, {modules}; print(sorted({unwanted} & set(sys.modules)))") == "[]\n"


def test_package_has_its_public_names_only():
    with pytest.raises(AttributeError, match="module 'pld_grid' has no attribute 'rum'"):
        pld_grid.rum  # type: ignore[attr-defined]  # noqa: B018


def test_grids_are_found_by_name_here_before_those_of_the_package(run):
    assert run("plan", "table07", "--json")[:2] == run("plan", str(ROOT / "grids" / "table07.yaml"), "--json")[:2]
    code, _, err = run("plan", "tabel07")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith('error: unknown grid "tabel07"; valid: cifar100, table01, ')
    assert '(did you mean "table07"?)' in err
    Path("grids").mkdir()
    _grid(name="grids/table07.yaml")
    _grid(name="grids/mine.yaml")
    for name in ("table07", "mine"):
        assert json.loads(run("plan", name, "--json")[1])["student_cells"] == 2
    # A file of that name, without an ending, is a path.
    _grid(name="mine")
    Path("grids/mine.yaml").unlink()
    assert json.loads(run("plan", "mine", "--json")[1])["student_cells"] == 2


def test_commands_name_a_store_further_up_and_leave_it_alone(run, monkeypatch):
    store = Path(".pld_grid", "store").absolute()
    assert run("plan", "table07")[2] == ""
    store.mkdir(parents=True)
    assert run("plan", "table07")[2] == ""
    Path("a/b").mkdir(parents=True)
    monkeypatch.chdir("a/b")
    message = f"no store in this folder (to use the one further up: --store {store})\n"
    for arguments in (("plan", "table07"), ("report", "table07", "--out", "out"), ("why", "table07", "AdamW", "PLD")):
        assert run(*arguments)[2] == message
    assert run("plan", "table07", "--store", str(store))[2] == ""
    assert list(store.iterdir()) == []
    assert not Path(".pld_grid").exists()


def test_version_is_printed(run):
    assert run("--version") == (0, f"pld-grid {version('pld_grid')}\n", "")
