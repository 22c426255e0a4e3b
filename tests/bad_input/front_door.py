"""A bad input given to `pld-grid`, and what must come of it: one line, an exit code, and nothing else."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from service import isolated

from pld_grid import cli

# Words of ours, of Python or of a library that tell a user nothing.
JARGON = re.compile(
    r"Traceback|pydantic|function-|validation error|NoneType|\bNone\b|\bTrue\b|\bFalse\b|instance of|\bdict\b|"
    r"dictionary|\btuple\b|<class|[A-Z]\w+Error\b|valid string|valid integer|[Ii]nput should"
)


@dataclass(frozen=True)
class Case:
    """Something that a user gets wrong.

    `says` is what the line has to say, as parts in their order with " | " between them. `files` lie in the folder in
    which the command runs, `prepare` makes what is more than a file there, `settings` are environment variables.
    `alone` runs it in a process of its own too, as does every kind with at least one of its cases.
    """

    command: tuple[str, ...]
    says: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    code: int = 2
    alone: bool = False

    def lay_out(self, folder: Path) -> None:
        """Makes the folder as the user has it."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if self.prepare is not None:
            self.prepare(folder)

    def check(self, code: int, out: str, err: str) -> None:
        """Fails unless this is the one line that the user should get."""
        assert out == ""
        assert err.startswith("error: "), err
        assert err.endswith("\n")
        line = err[:-1]
        assert line.isprintable(), err
        assert len(line) < 4100
        assert not JARGON.search(line), line
        place = 0
        for part in self.says.split(" | "):
            found = line.find(part, place)
            assert found >= 0, line
            place = found + len(part)
        assert code == self.code


class FrontDoor:
    """`pld-grid` in a folder of the test's own, with a home of its own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()

    def refuses(self, case: Case) -> None:
        """Runs a case in this process, and fails unless it ends in its one line and leaves nothing behind."""
        case.lay_out(self.work)
        before, children = _everything(self.folder), psutil.Process().children()
        case.check(*self.run(case))
        assert _everything(self.folder) == before
        assert psutil.Process().children() == children

    def run(self, case: Case) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a case that is laid out, in this process."""
        environment = isolated(self.home) | case.settings
        with self.patch.context() as patch:
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(self.work)
            patch.setattr("sys.argv", ["pld-grid", *case.command])
            for name in ("errors", "output"):
                console = cli.console._Console(stderr=name == "errors", force_terminal=False)
                patch.setattr(cli.console, name, console)
            self.capture.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        out, err = self.capture.readouterr()
        return int(ended.value.code or 0), out, err

    def refuses_alone(self, case: Case) -> None:
        """The same in a process of its own, as people start it."""
        case.lay_out(self.work)
        before = _everything(self.folder)
        done = subprocess.run(
            [sys.executable, "-m", "pld_grid", *case.command],
            cwd=self.work,
            env=isolated(self.home) | case.settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
        case.check(done.returncode, done.stdout, done.stderr)
        assert _everything(self.folder) == before


def _everything(folder: Path) -> dict[str, bytes | None]:
    """All files of a folder with what they hold, and all folders."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}
