from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from front_door import FrontDoor


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    report = yield
    if report.when == "call" and report.passed and item.originalname == "test_is_refused_in_one_line":
        report.user_properties.append(("bad input", item.callspec.params["name"].partition(":")[0]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = (dict(report.user_properties) for report in terminalreporter.getreports("passed"))
    kinds = Counter(each["bad input"] for each in told if "bad input" in each)
    if kinds:
        listed = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
        terminalreporter.write_line(f"bad inputs refused in one line: {kinds.total()} ({listed})")


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> FrontDoor:
    """`pld-grid` in an empty folder."""
    return FrontDoor(tmp_path, monkeypatch, capfd)
