from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from error_cases import FrontDoor

# Tests whose cases are bad inputs, with the kind of their cases if the case's name does not begin with it.
_COUNTED = {"test_case_is_one_error_line": None, "test_is_told_of_in_one_line_and_made_good": "checkpoints"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    report = yield
    if report.when == "call" and report.passed and item.originalname in _COUNTED:
        kind = _COUNTED[item.originalname] or item.callspec.params["name"].partition(":")[0]
        report.user_properties.append(("bad input", kind))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    properties = (dict(report.user_properties) for report in terminalreporter.getreports("passed"))
    kinds = Counter(each["bad input"] for each in properties if "bad input" in each)
    if kinds:
        listed = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
        terminalreporter.write_line(f"bad inputs answered in one line: {kinds.total()} ({listed})")


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> FrontDoor:
    """Return `pld-grid` in an empty folder."""
    return FrontDoor(tmp_path, monkeypatch, capfd)
