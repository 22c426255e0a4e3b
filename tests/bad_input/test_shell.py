"""Unusual shells: invalid terminal sizes, closed streams, deleted folders, odd file names."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import isolated

GRID = "cells: {student: ResNet-50, loss: ce}\n"


def shell(folder: Path, line: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell line in which $PLD_GRID stands for the command."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(GRID)
    command = f"{sys.executable} -m pld_grid"
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace("$PLD_GRID", command)],
        cwd=folder,
        env=isolated(home) | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("name", "value"), [("COLUMNS", "²"), ("COLUMNS", "0"), ("COLUMNS", "1" * 5000), ("LINES", "x")]
)
def test_invalid_terminal_size_is_ignored(tmp_path, name, value):
    wanted = shell(tmp_path, "$PLD_GRID plan mine.yaml")
    assert "distinct student cells" in wanted.stdout
    assert shell(tmp_path, "$PLD_GRID plan mine.yaml", **{name: value}).stdout == wanted.stdout


def test_help_with_invalid_width(tmp_path):
    done = shell(tmp_path, "$PLD_GRID plan --help", TERMINAL_WIDTH="abc")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--profile" in done.stdout


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("$PLD_GRID plan mine.yaml >&-", 0, ""),
        ("$PLD_GRID plan mine.yaml --json >&-", 0, ""),
        ("$PLD_GRID plan gone.yaml 2>&-", 2, ""),
        ("$PLD_GRID plan mine.yaml <&- >/dev/null", 0, ""),
        ("$PLD_GRID plan mine.yaml >/dev/full", 2, "error: standard output: No space left on device\n"),
        ("$PLD_GRID plan mine.yaml --json >/dev/full", 2, "error: standard output: No space left on device\n"),
        ("mkdir gone; cd gone; rmdir ../gone; $PLD_GRID plan ../mine.yaml", 2, "the current folder cannot be used"),
        ("mkdir gone; cd gone; rmdir ../gone; $PLD_GRID why abcdef", 2, "the current folder cannot be used"),
    ],
)
def test_closed_streams_and_deleted_folders(tmp_path, line, code, message):
    done = shell(tmp_path, line)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert (done.stderr.count("\n") == 1) if message else (done.stderr == "")


@pytest.mark.parametrize("out", ["[/x]", "[red]a", ":smile:", os.fsdecode(b"a\xff"), "a\x1b[31mb"])
def test_report_folder_may_have_any_name(tmp_path, out):
    """It is printed literally: without markup, emoji and control characters."""
    settings = {"PYTHONIOENCODING": "utf-8:strict", "MPLBACKEND": "nonsense"}
    done = shell(tmp_path, f"$PLD_GRID report mine.yaml --out {shlex.quote(out)}", **settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / out / "README.md").exists()
    shown = re.match(r"(.*): \d+ files written", done.stdout)
    assert shown[1] == "".join(c if c.isprintable() else ascii(c)[1:-1] for c in out)
    shutil.rmtree(tmp_path / out)
