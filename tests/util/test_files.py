"""Atomic writes, temporary files and folders of killed processes, and paths that are no regular files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pld_grid.util import atomic_files
from pld_grid.util.atomic_files import NotARegularFile, atomic_create, atomic_write, read_regular, temporary_folder
from pld_grid.util.processes import Process, this_machine

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from pld_grid.util import atomic_files

Path.replace = Path.hardlink_to = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
getattr(atomic_files, sys.argv[1])(Path(sys.argv[2]), b"half of it", *map(eval, sys.argv[3:]))
"""
KILLED_IN_FOLDER = """
import os, signal, sys
from pld_grid.util.atomic_files import temporary_folder

with temporary_folder("run-", sys.argv[1]) as folder:
    open(folder + "/file", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_killed(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def make_older(path: Path, seconds: float) -> None:
    modified = path.lstat().st_mtime - seconds
    os.utime(path, (modified, modified))


@pytest.mark.parametrize("how", [("atomic_write", "True"), ("atomic_create",)])
def test_temporary_file_of_a_killed_writer_is_removed_once_it_is_old(tmp_path, how):
    function, *options = how
    run_killed(KILLED_WRITER, function, str(tmp_path / "one"), *options)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".one.")
    assert left.read_bytes() == b"half of it"
    stranger = tmp_path / ".mine.tmp"
    stranger.touch()
    make_older(stranger, 10 * atomic_files.MAX_WRITE_SECONDS)
    # A young one may still be in use.
    make_older(left, atomic_files.MAX_WRITE_SECONDS - 60)
    atomic_create(tmp_path / "two", b"whole")
    assert left.exists()
    make_older(left, 120)
    atomic_write(tmp_path / "three", b"whole", durable=False)
    assert {path.name for path in tmp_path.iterdir()} == {"two", "three", stranger.name}


def test_temporary_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path):
    stranger = tmp_path / "run-of-somebody"
    stranger.mkdir()
    linked = tmp_path / "precious"
    linked.mkdir()
    (linked / "lock").touch()
    run_killed(KILLED_IN_FOLDER, str(tmp_path))
    (abandoned,) = set(tmp_path.iterdir()) - {stranger, linked}
    assert abandoned.stat().st_mode & 0o777 == 0o700
    # A link with such a name is not followed.
    (tmp_path / "run-link").symlink_to(linked)
    with temporary_folder("run-", str(tmp_path)) as first:
        assert abandoned.exists()
        for path in tmp_path.iterdir():
            make_older(path, 2 * atomic_files.MIN_ABANDONED_SECONDS)
        with temporary_folder("run-", str(tmp_path)) as second:
            assert [*Path(first).iterdir(), *Path(second).iterdir()] == []
            assert not abandoned.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run-link", "run-of-somebody"]
    assert (linked / "lock").exists()


def test_process_identity_includes_machine_and_start_time():
    own = Process.own()
    assert own.here
    assert not own.has_exited
    assert own._replace(start_ticks=own.start_ticks - 1).has_exited
    elsewhere = own._replace(machine="elsewhere")
    assert not elsewhere.here
    assert not elsewhere.has_exited
    assert not elsewhere.end()
    for number in (0, -1):
        assert Process(this_machine(), number, 0).has_exited
    # Not this process, although it has its number.
    assert own._replace(start_ticks=own.start_ticks - 1).end()


def test_read_regular_of_a_pipe_or_device_raises_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(NotARegularFile, match="not a regular file"):
            read_regular(path)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    assert read_regular(tmp_path / "huge", 5) == bytes(6)
    (tmp_path / "small").write_bytes(b"small")
    assert read_regular(tmp_path / "small") == read_regular(tmp_path / "small", 5) == b"small"
    # The buffer is no larger than the file.
    assert read_regular(tmp_path / "small", 2**60) == b"small"
    assert b"Name:" in read_regular("/proc/self/status", 10_000)
