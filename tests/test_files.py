"""What processes that died while they wrote have left, and files that are none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pld_grid.files import NoFile, create_whole, read_regular, temporary_folder, write_whole
from pld_grid.processes import Process, this_machine

DYING = """
import os, signal, sys
from pathlib import Path
from pld_grid import files

os.replace = os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
Path.replace = Path.hardlink_to = os.replace
getattr(files, sys.argv[1])(Path(sys.argv[2]), b"half of it", *map(eval, sys.argv[3:]))
"""
WITH_FOLDER = """
import os, signal, sys
from pld_grid.files import temporary_folder

with temporary_folder("run-", sys.argv[1]) as folder:
    open(folder + "/what", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def dies(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("how", [("write_whole", "True"), ("create_whole",)])
def test_what_a_killed_writer_left_goes_with_the_next_file(tmp_path: Path, how: tuple[str, ...]) -> None:
    function, *options = how
    dies(DYING, function, str(tmp_path / "one"), *options)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".one.")
    assert left.read_bytes() == b"half of it"
    write_whole(tmp_path / "another", b"whole", durable=False)
    assert [path.name for path in tmp_path.iterdir()] == ["another"]
    dies(DYING, function, str(tmp_path / "one"), *options)
    create_whole(tmp_path / "third", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "third"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    living = tmp_path / f".x.{Process.own().mark}.01234567.tmp"
    elsewhere = tmp_path / ".x.00000000-1-1.01234567.tmp"
    forgotten = tmp_path / ".x.00000000-1-2.01234567.tmp"
    strange = tmp_path / ".mine.tmp"
    for path in (living, elsewhere, forgotten, strange):
        path.write_bytes(b"")
    now = strange.stat().st_mtime
    os.utime(forgotten, (now - 2 * 86400, now - 2 * 86400))
    os.utime(strange, (0, 0))
    write_whole(tmp_path / "x", b"", durable=False)
    assert {path.name for path in tmp_path.iterdir()} == {"x", living.name, elsewhere.name, strange.name}


def test_a_dead_process_s_folder_goes_with_the_next_one(tmp_path: Path) -> None:
    stranger = tmp_path / "run-of-somebody"
    stranger.mkdir()
    linked = tmp_path / "precious"
    linked.mkdir()
    dies(WITH_FOLDER, str(tmp_path))
    (dead,) = set(tmp_path.iterdir()) - {stranger, linked}
    assert dead.stat().st_mode & 0o777 == 0o700
    # A link by such a name is not followed, whatever it says whose it is.
    (linked / "owner").write_text((dead / "owner").read_text())
    (tmp_path / "run-link").symlink_to(linked)
    with temporary_folder("run-", str(tmp_path)) as first, temporary_folder("run-", str(tmp_path)) as second:
        assert [*Path(first).iterdir(), *Path(second).iterdir()] == []
        assert not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run-link", "run-of-somebody"]
    assert (linked / "owner").exists()


def test_a_process_is_known_by_more_than_its_number() -> None:
    own = Process.own()
    assert own.here
    assert not own.gone
    assert Process.of_mark(own.mark) == own
    assert own._replace(born=own.born - 1).gone
    elsewhere = own._replace(machine="elsewhere")
    assert not elsewhere.here
    assert not elsewhere.gone
    assert not elsewhere.end()
    assert Process.of_mark(elsewhere.mark) is None
    for mark in ("", "x", own.mark + "-1", own.mark.replace("-", "--", 1), own.mark[:-1] + "x"):
        assert Process.of_mark(mark) is None
    for number in (0, -1):
        assert Process(this_machine(), number, 0).gone


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(NoFile, match="not a regular file"):
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
    # Nor is memory taken for more than there is.
    assert read_regular(tmp_path / "small", 2**60) == b"small"
    assert b"Name:" in read_regular("/proc/self/status", 10_000)
