"""The package as others install it: a wheel with all that ships, which works in an empty folder."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_process import isolated
from paths import ROOT

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SOURCES = ("pld_grid", "grids", "reports/paper")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def list_files(folder: str) -> list[Path]:
    """Return the files of a folder of the clone, relative to the clone."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    return [path.relative_to(ROOT) for path in files]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source distribution from a copy of the clone, and a wheel from that."""
    folder = tmp_path_factory.mktemp("build")
    for path in (*map(Path, ("pyproject.toml", "setup.py", "README.md")), *(p for s in SOURCES for p in list_files(s))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    (source,) = (folder / "dist").iterdir()
    # pip would look for another setuptools on the network; the one that is installed will do.
    build = [*PIP, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", "wheels", source]
    subprocess.run(build, cwd=folder, check=True)
    (built,) = (folder / "wheels").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder of its own; return the folder."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run the installed `pld-grid ARGUMENTS`, or another program, in an empty folder."""
    environment = isolated(tmp_path / "home") | {"PYTHONPATH": str(installed)}
    work = tmp_path / "work"
    work.mkdir()

    def invoke(
        *arguments: str, program: tuple[str, ...] = (str(installed / "bin" / "pld-grid"),), **settings: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*program, *arguments], cwd=work, env=environment | settings, capture_output=True, text=True
        )

    return invoke


def test_wheel_contains_the_package_and_everything_that_ships(wheel):
    expected = {path.as_posix() for path in list_files("pld_grid")}
    expected |= {f"pld_grid/shipped/{path.as_posix()}" for folder in SOURCES[1:] for path in list_files(folder)}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    for folder in ("grids", "grids/profiles", "reports/paper"):
        assert any(Path(name).parent == Path("pld_grid/shipped", folder) for name in names), folder


def test_installed_package_finds_its_own_files(run, installed):
    code = "from pld_grid.util.shipped_files import search_path; print(*search_path('grids'), sep=chr(10))"
    done = run("-c", code, program=(sys.executable,))
    assert done.stdout.splitlines() == ["grids", str(installed / "pld_grid" / "shipped" / "grids")], done.stderr


def test_installed_command_plans_and_reports_a_grid_by_name(run, tmp_path):
    planned = run("plan", "table07", "--profile", "digits", "--json")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert json.loads(planned.stdout)["student_cells"] == 12
    reported = run("report", "table07", "--profile", "digits", "--out", "out")
    assert (reported.returncode, reported.stdout) == (0, "out: 9 files written\n"), reported.stderr
    # Without results, a report shows the paper's numbers and claims.
    printed = next(csv.reader((ROOT / "reports/paper/table07.csv").read_text().splitlines()[1:]))
    table, claims = (tmp_path / "work" / "out" / name for name in ("table07.md", "claims.csv"))
    assert all(figure in table.read_text() for figure in printed)
    assert len(claims.read_text().splitlines()) > 1


def test_installed_command_refuses_an_unknown_grid(run):
    done = run("plan", "tabel07")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith('error: unknown grid "tabel07"; valid: cifar100, table01, ')
    assert done.stderr.endswith(', or a YAML file (did you mean "table07"?)\n')


def test_installed_command_prints_its_version_and_completes_commands(run, wheel):
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pld-grid {wheel.name.split('-')[1]}\n", "")
    done = run(_PLD_GRID_COMPLETE="complete_bash", COMP_WORDS="pld-grid re", COMP_CWORD="1")
    assert done.stdout.split() == ["report"]
