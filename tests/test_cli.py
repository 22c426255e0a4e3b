"""The command line, in this process: what it prints, and one line with exit code 2 for whatever is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pld_grid import cli, workspace

ROOT = Path(__file__).parent.parent
Run = Callable[..., tuple[int, str, str]]
GRID = "cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}\n"


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
def test_plan_counts_what_all_ten_tables_share(run: Run, profile: str, expected: dict[str, int]) -> None:
    code, out, err = run("plan", *TABLES, "--profile", profile, "--json", "--slots", "1")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary.items() >= {"entries": 122, "student_cells": 80, "finished": 0, **expected}.items()
    # One cohort per teacher and length (Table 5 has both), and one for the teachers themselves.
    assert summary["cohorts"] == 8
    assert not Path(".pld_grid").exists()


def test_plan_is_readable_without_json(run: Run) -> None:
    code, out, _ = run("plan", _grid())
    assert code == 0
    assert "distinct student cells" in out
    assert "wave 2:" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "nowhere.yaml"), "nowhere.yaml: cannot be read: No such file or directory"),
        (
            ("plan", "mine.yaml", "--profile", "digit"),
            'unknown profile "digit"; valid: cifar100, cifar100-benchmark, digits, imagenet',
        ),
        (("plan", "mine.yaml", "mine.yaml"), "two grids are called mine"),
        (("run", "mine.yaml", "--cpus-per-cohort", "-1"), "--cpus-per-cohort: "),
        (("run", "mine.yaml", "--cpus-per-cohort", "nan"), "--cpus-per-cohort: "),
        (("run", "mine.yaml", "--gpus-per-cohort", "64"), "a cohort asks for 1 CPUs and 64 GPUs, the cluster has "),
        (("run", "mine.yaml", "--cpus-per-cohort", "4096"), "a cohort asks for 4096 CPUs, the cluster has "),
        (("run", "mine.yaml", "--store", "mine.yaml"), "store mine.yaml: "),
        (("run", "mine.yaml", "--store", "nosuch://x"), "store nosuch://x: "),
        (("run", "mine.yaml", "--profile", "cifar100"), "dataset cifar100 needs a data folder (--data-dir)"),
        (("run", "mine.yaml", "--profile", "cifar100", "--data-dir", "gone"), "no such folder: gone"),
        (("report", "mine.yaml", "--from", "mlflow"), "there is no MLflow database"),
        (("report", "mine.yaml", "--out", "mine.yaml/x"), "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(run: Run, arguments: tuple[str, ...], said: str) -> None:
    _grid()
    code, out, err = run(*arguments)
    assert (code in (2, 3), out) == (True, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def test_errors_in_a_grid_name_file_line_key_and_the_nearest_name(run: Run) -> None:
    code, _, err = run("run", _grid("cells:\n  student: ResNet-50\n  teacher: ResNet-152\n  loss: [kd, pdl]\n"))
    assert code == 2
    assert "mine.yaml:4: cells.loss" in err
    assert 'did you mean "pld"?' in err


def test_a_grid_beyond_the_limit_asks_to_be_confirmed(run: Run) -> None:
    grid = _grid(GRID.replace("[kd, pld]", "kd, seed: [" + ", ".join(map(str, range(2001))) + "]"))
    code, _, err = run("plan", grid)
    assert code == 2
    assert "expands to 2001 cells, more than the limit of 2000 (--max-cells raises it)" in err
    assert run("plan", grid, "--max-cells", "3000")[0] == 0


def test_report_before_any_run_says_that_nothing_ran(run: Run) -> None:
    code, out, err = run("report", _grid(), "--out", "tables")
    assert (code, err) == (0, "")
    assert "7 files written" in out
    assert "not run" in Path("tables/mine.md").read_text()


def test_ui_of_a_server_is_its_address(run: Run) -> None:
    code, out, _ = run("ui", "--tracking-uri", "http://someone:secret@mlflow.example:5000")
    assert code == 0
    assert "mlflow.example:5000" in out
    assert "secret" not in out


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("plan", "run", "report", "sync", "ui"))


def test_the_code_version_is_a_commit_or_what_the_image_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLD_GRID_COMMIT", "built-from-1234")
    assert workspace.code_version() == "built-from-1234"
    # What Python makes of a byte that is no text could be in no receipt.
    monkeypatch.setenv("PLD_GRID_COMMIT", "built\udcff")
    assert workspace.code_version() == r"built\udcff"
    monkeypatch.delenv("PLD_GRID_COMMIT")
    assert len(workspace.code_version().removesuffix("-dirty")) in (0, 40)


def test_the_functions_of_the_package_are_what_the_readme_calls(run: Run) -> None:
    import pld_grid

    grids = pld_grid.load_grids([ROOT / "grids" / "table07.yaml"], profile="digits")
    assert pld_grid.plan(grids).summary()["student_cells"] == 12
    assert pld_grid.report(grids, "tables")
    assert all(callable(getattr(pld_grid, name)) for name in pld_grid.__all__)


def test_a_table_that_cannot_be_built_is_refused_before_anything_runs(run: Run) -> None:
    grid = _grid(GRID + "table: {rows: [student], columns: [{header: Top-1, metric: top1}]}\n")
    code, out, err = run("run", grid)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Top-1" in err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def test_importing_the_package_loads_no_torch_ray_or_mlflow() -> None:
    import subprocess
    import sys

    # With what only looks after jobs on a cluster.
    code = "import sys, pld_grid, pld_grid.cli, pld_grid.schedule; "
    code += "print(sorted({'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
