"""What all tests of faults share. In a test of faults:

    def test_x(count, chance, undisturbed, database, tmp_path):
        service = Service(tmp_path, profile=PROFILE, grid=GRID, database=database)
        ... chance.random() ...                     # a random.Random of this test's own; its seed is printed
        count("MLflow answers 500")                 # one injected fault of a kind; count(kind, 16) for several
        count.kill("trial")                         # one killed process, by what it was
        assert service.numbers() == undisturbed(PROFILE, GRID)     # the report's files, byte for byte

What is counted in a test is added to the sum when the test has passed. PLD_GRID_FAULT_SEED sets the seed.
"""

import hashlib
import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_process import GRID, PROFILE, Service
from fault_counts import NOT_RANDOM, Count, Make, Undisturbed, Watch
from filelock import FileLock
from process_kills import LONG, LONG_PROFILE, Recorder, Run

SEED = "PLD_GRID_FAULT_SEED"
# How many processes of grids die at a random moment, at least, if all tests are run.
RANDOM_KILLS = 18


_injected = pytest.StashKey[Count]()


def _seed() -> int:
    # The same faults in every run of CI; another seed is another sample.
    return int(os.environ.get(SEED, "20260722"))


def pytest_report_header() -> str:
    return f"faults: {SEED}={_seed()}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    report = yield
    if report.when == "call" and report.passed:
        # Reports, not what is in memory, come from the processes that tests may be spread over.
        counted = item.stash.get(_injected, Count())
        report.user_properties += [
            ("kills", dict(counted.kills)),
            ("faults", dict(counted.faults)),
            ("file", [item.path.name]),
        ]
    elif report.failed:
        report.sections.append(("faults", f"{SEED}={_seed()} repeats them"))
    return report


def _passed(config: pytest.Config) -> list[dict[str, Any]]:
    """What was counted in the tests that passed."""
    reporter: pytest.TerminalReporter = config.pluginmanager.getplugin("terminalreporter")
    return [dict(report.user_properties) for report in reporter.getreports("passed") if report.when == "call"]


def _sum(passed: Iterable[Mapping[str, Any]], name: str) -> Counter[str]:
    return sum((Counter(counted.get(name, {})) for counted in passed), Counter[str]())


def _too_few(config: pytest.Config) -> str:
    """Says so if all tests were run and passed, and yet not enough processes died at random moments."""
    passed = _passed(config)
    files = {name for counted in passed for name in counted.get("file", ())}
    if not files >= {path.name for path in Path(__file__).parent.glob("test_*.py")}:
        return ""
    kills = _sum(passed, "kills")
    random_ones = sum(number for victim, number in kills.items() if victim not in NOT_RANDOM)
    return f"only {random_ones} kills at random moments: {RANDOM_KILLS} were promised" * (random_ones < RANDOM_KILLS)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and session.exitstatus == 0 and _too_few(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, name in (("kills survived", "kills"), ("other faults survived", "faults")):
        kinds = _sum(_passed(config), name)
        if kinds:
            listed = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
            terminalreporter.write_line(f"{title}: {kinds.total()} ({listed})")
    if _too_few(config):
        terminalreporter.write_line(_too_few(config), red=True)
    terminalreporter.write_line(f"{SEED}={_seed()}")


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Count:
    """Counts injected faults."""
    return request.node.stash.setdefault(_injected, Count())


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the seed and the test alone."""
    return random.Random(f"{_seed()} {request.node.nodeid.rpartition('/')[2]}")


@pytest.fixture(scope="session")
def undisturbed(common: Path, database: Path) -> Undisturbed:
    """What `Service.numbers` is of a profile and a grid that ran without trouble; each runs once."""

    @cache
    def of(profile: str = PROFILE, grid: str = GRID) -> dict[str, bytes]:
        folder = common / hashlib.sha256(f"{profile}{grid}".encode()).hexdigest()[:16]
        with FileLock(f"{folder}.lock"):
            if not (folder / "numbers.json").exists():
                service = Service(folder, profile=profile, grid=grid, database=database)
                service.run("run")
                numbers = {name: data.decode("latin-1") for name, data in service.numbers().items()}
                (folder / "numbers.json").write_text(json.dumps(numbers))
        texts: dict[str, str] = json.loads((folder / "numbers.json").read_text())
        return {name: text.encode("latin-1") for name, text in texts.items()}

    return of


@pytest.fixture
def make(tmp_path: Path, database: Path) -> Make:
    """A folder with a grid, whose processes note what they do."""

    def made(profile: str = LONG_PROFILE, grid: str = LONG) -> tuple[Service, Recorder]:
        service = Service(tmp_path / "run", profile=profile, grid=grid, database=database)
        recorder = Recorder(tmp_path / "witness")
        service.environment |= recorder.environment
        return service, recorder

    return made


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Watches commands that were started; nothing of them is left after the test."""
    runs: list[Run] = []

    def of(process: "subprocess.Popen[str]") -> Run:
        runs.append(Run(process))
        return runs[-1]

    yield of
    for run in runs:
        run.kill_all()
