"""What every test may use: the catalogue, which takes seconds to load, and the profiles on top of it.

A test skips itself where a machine lacks what it needs. PLD_GRID_NO_SKIPS=1 says that this machine lacks nothing.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import service
from hypothesis import settings

from pld_grid.catalogue import Catalogue
from pld_grid.grid import Grid, expand
from pld_grid.profile import Profile, load_profile
from pld_grid.reading import read_text

ROOT = Path(__file__).parent.parent
settings.register_profile("pld_grid", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("pld_grid")
# A shell ignores Ctrl-C for what it starts in the background, and whatever tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
NO_SKIPS = "PLD_GRID_NO_SKIPS"
# Whose tests then fail instead of skipping themselves. Others need what few machines have, such as a GPU.
NEVER_SKIPPED = {"browser", "cluster", "docker", "faults"}


def _without_skip(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    """Makes a failure of a skipped test, or file of tests, that may not be skipped."""
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get(NO_SKIPS) and path.relative_to(Path(__file__).parent).parts[0] in NEVER_SKIPPED:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{why}, but {NO_SKIPS} is set"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _without_skip(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if isinstance(collector, pytest.File):
        _without_skip(report, collector.path)
    return report


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Ends what a test has started, however the test ends."""
    with service.ended():
        yield


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_of_a_file() -> Iterator[None]:
    """The same of what several tests share."""
    with service.ended():
        yield


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """Everything that a grid may name: it imports torch and timm, so once for all tests."""
    from pld_grid.train.catalogue import load

    return load()


@pytest.fixture(scope="session")
def profile(catalogue: Catalogue) -> Callable[[str], Profile]:
    """The project's profiles by name."""
    loaded: dict[str, Profile] = {}

    def get(name: str) -> Profile:
        if name not in loaded:
            loaded[name] = load_profile(ROOT / "grids" / "profiles" / f"{name}.yaml", catalogue)
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def grid(profile: Callable[[str], Profile]) -> Callable[..., Grid]:
    """Grids from YAML text, under `digits` unless asked otherwise."""

    def make(text: str, under: str = "digits", *, name: str = "grid", **options: int) -> Grid:
        return expand(read_text(text, f"{name}.yaml"), name, profile(under), **options)

    return make
