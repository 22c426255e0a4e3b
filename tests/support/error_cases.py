"""Bad inputs for `pld-grid`, each of which must give one error line, an exit code, and no other effect."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from cli_process import isolated, run_in_process, start_cli

# Internal words of Python or a library, which mean nothing to a user.
JARGON = re.compile(
    r"Traceback|pydantic|function-|validation error|NoneType|\bNone\b|\bTrue\b|\bFalse\b|instance of|\bdict\b|"
    r"dictionary|\btuple\b|<class|[A-Z]\w+Error\b|valid string|valid integer|[Ii]nput should"
)


@dataclass(frozen=True)
class Case:
    """A user error.

    `says` has the parts that the error line must contain, in order, separated by " | ". `files` are in the folder in
    which the command runs; `prepare` creates what is not a plain file; `settings` are environment variables.
    `alone` also runs the case in a process of its own, as is done for the first case of each kind.
    """

    command: tuple[str, ...]
    says: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    code: int = 2
    alone: bool = False

    def lay_out(self, folder: Path) -> None:
        """Create the user's folder."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if self.prepare is not None:
            self.prepare(folder)

    def check(self, code: int, out: str, err: str) -> None:
        """Fail unless this is the expected error line and exit code."""
        assert out == ""
        assert err.startswith("error: "), err
        assert err.endswith("\n")
        line = err[:-1]
        assert line.isprintable(), err
        assert len(line) < 4100
        assert not JARGON.search(line), line
        place = 0
        for part in self.says.split(" | "):
            position = line.find(part, place)
            assert position >= 0, line
            place = position + len(part)
        assert code == self.code


class FrontDoor:
    """Run `pld-grid` in a temporary folder with its own home."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()

    def check_in_process(self, case: Case) -> None:
        """Run a case in this process; fail unless it prints its line and leaves no files or processes behind."""
        case.lay_out(self.work)
        before, children = _everything(self.folder), psutil.Process().children()
        case.check(*self.run(case))
        assert _everything(self.folder) == before
        assert psutil.Process().children() == children

    def run(self, case: Case) -> tuple[int, str, str]:
        """Run a prepared case in this process, as `run_in_process` does."""
        environment = isolated(self.home) | case.settings
        with self.patch.context() as patch:
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(self.work)
            return run_in_process(patch, self.capture, *case.command)

    def check_in_subprocess(self, case: Case) -> None:
        """Run a case in a process of its own, with the same checks."""
        case.lay_out(self.work)
        before = _everything(self.folder)
        process = start_cli(self.work, isolated(self.home) | case.settings, *case.command)
        out, err = process.communicate(timeout=300)
        case.check(process.returncode, out, err)
        assert _everything(self.folder) == before


def _everything(folder: Path) -> dict[str, bytes | None]:
    """Return all files of a folder with their contents, and all folders."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}
