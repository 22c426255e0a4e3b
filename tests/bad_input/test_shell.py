"""Shells that are not as they should be: one line where something is wrong, and no harm where nothing is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from service import isolated

GRID = "cells: {student: ResNet-50, loss: ce}\n"


def shell(folder: Path, line: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """What a shell makes of a line in which $PLD_GRID is the command."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(GRID)
    command = f"{sys.executable} -m pld_grid"
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace("$PLD_GRID", command)],
        cwd=folder, env=isolated(home) | settings, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("name", "value"), [("COLUMNS", "²"), ("COLUMNS", "0"), ("COLUMNS", "1" * 5000), ("LINES", "x")]
)
def test_a_size_that_is_none_is_no_size(tmp_path: Path, name: str, value: str) -> None:
    wanted = shell(tmp_path, "$PLD_GRID plan mine.yaml")
    assert "distinct student cells" in wanted.stdout
    assert shell(tmp_path, "$PLD_GRID plan mine.yaml", **{name: value}).stdout == wanted.stdout


def test_help_of_a_width_that_is_none(tmp_path: Path) -> None:
    done = shell(tmp_path, "$PLD_GRID plan --help", TERMINAL_WIDTH="abc")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--profile" in done.stdout


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$PLD_GRID plan mine.yaml >&-", 0, ""), ("$PLD_GRID plan mine.yaml --json >&-", 0, ""),
        ("$PLD_GRID plan gone.yaml 2>&-", 2, ""), ("$PLD_GRID plan mine.yaml <&- >/dev/null", 0, ""),
        ("$PLD_GRID plan mine.yaml >/dev/full", 2, "error: standard output: No space left on device\n"),
        ("$PLD_GRID plan mine.yaml --json >/dev/full", 2, "error: standard output: No space left on device\n"),
        ("mkdir gone; cd gone; rmdir ../gone; $PLD_GRID plan ../mine.yaml", 2, "the current folder cannot be used"),
        ("mkdir gone; cd gone; rmdir ../gone; $PLD_GRID why abcdef", 2, "the current folder cannot be used"),
    ],
)  # fmt: skip
def test_streams_and_folders_that_are_gone(tmp_path: Path, line: str, code: int, said: str) -> None:
    done = shell(tmp_path, line)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert (done.stderr.count("\n") == 1) if said else (done.stderr == "")


@pytest.mark.parametrize("out", ["[/x]", "[red]a", ":smile:", os.fsdecode(b"a\xff"), "a\x1b[31mb"])
def test_a_folder_may_have_any_name(tmp_path: Path, out: str) -> None:
    """What is printed of it is text: no markup, no emoji, nothing that a terminal obeys."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "mine.yaml").write_text(GRID)
    command = [sys.executable, "-m", "pld_grid", "report", "mine.yaml", "--out", out]
    done = subprocess.run(
        command, cwd=tmp_path, env=isolated(home) | {"PYTHONIOENCODING": "utf-8:strict", "MPLBACKEND": "nonsense"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / out / "README.md").exists()
    shown = re.match(r"(.*): \d+ files written", done.stdout)
    assert shown is not None
    assert shown[1] == "".join(c if c.isprintable() else ascii(c)[1:-1] for c in out)
    shutil.rmtree(tmp_path / out)
