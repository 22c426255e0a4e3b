"""Fixtures for all tests: the registry, which takes seconds to load, profiles and grids.

Helpers and fixtures have annotations; test functions have none, because pytest passes fixtures by name.
Tests skip themselves where a machine lacks what they need; PLD_GRID_NO_SKIPS=1 turns such skips into failures.
"""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cli_process
import pytest
from filelock import FileLock
from hypothesis import settings
from paths import ROOT

from pld_grid.experiment.grid import Grid, expand
from pld_grid.experiment.profile import Profile, load_profile
from pld_grid.experiment.registry import Registry
from pld_grid.util.strict_yaml import read_text

Run = Callable[..., tuple[int, str, str]]
settings.register_profile("pld_grid", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("pld_grid")
# Shells ignore Ctrl-C in background processes, and processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
NO_SKIPS = "PLD_GRID_NO_SKIPS"
# Folders whose skipped tests then fail. Others need rare hardware, such as a GPU.
NEVER_SKIPPED = {"browser", "cluster", "docker", "faults"}


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    """Turn the skip of a test or test module into a failure where skips are not allowed."""
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get(NO_SKIPS) and _folder(path) in NEVER_SKIPPED:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{reason}, but {NO_SKIPS} is set"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _fail_if_skipped(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if isinstance(collector, pytest.File):
        _fail_if_skipped(report, collector.path)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of two folders; run the longest files first, so that all processes end at about the same time."""
    for item in items:
        if _folder(item.path) in ("faults", "bad_input"):
            item.add_marker("faults")
    items.sort(key=lambda item: (_folder(item.path) not in ("faults", "cluster"), item.path.name != "test_submit.py"))


def _folder(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(autouse=True)
def _end_processes() -> Iterator[None]:
    """Kill the processes that a test leaves behind."""
    with cli_process.processes_ended():
        yield


@pytest.fixture(autouse=True, scope="module")
def _end_processes_of_module() -> Iterator[None]:
    """Kill the processes that module fixtures leave behind."""
    with cli_process.processes_ended():
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `pld-grid ARGUMENTS` in an empty folder; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("PLD_GRID_STORE", "MLFLOW_TRACKING_URI", "PLD_GRID_DATA"):
        monkeypatch.delenv(name, raising=False)
    return partial(cli_process.run_in_process, monkeypatch, capfd)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """Load everything that a grid may name, once: this imports torch and timm."""
    from pld_grid.train.discovery import load

    return load()


@pytest.fixture(scope="session")
def profile(registry: Registry) -> Callable[[str], Profile]:
    """Return a function that loads the project's profiles by name."""
    loaded: dict[str, Profile] = {}

    def get(name: str) -> Profile:
        if name not in loaded:
            loaded[name] = load_profile(ROOT / "grids" / "profiles" / f"{name}.yaml", registry)
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def digits(profile: Callable[[str], Profile]) -> Profile:
    """Return the profile that most tests use."""
    return profile("digits")


@pytest.fixture(scope="session")
def grid(profile: Callable[[str], Profile]) -> Callable[..., Grid]:
    """Return a function that makes grids from YAML text, under `digits` by default."""

    def make(text: str, under: str = "digits", *, name: str = "grid", **options: int) -> Grid:
        return expand(read_text(text, f"{name}.yaml"), name, profile(under), **options)

    return make


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def database(common: Path) -> Path:
    """Return an empty MLflow database, to be copied: its schema takes MLflow ten seconds to create."""
    from pld_grid.track.database import prepare_database

    path = common / "mlflow.db"
    with FileLock(common / "create.lock"):  # MLflow's own is beside the database
        if not path.exists():
            prepare_database(f"sqlite:///{path}")
    return path
