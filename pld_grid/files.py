"""Local files that readers see whole or not at all, and what is left of processes that died while they wrote.

What is not whole yet has a name that tells whose it is: `.NAME.PROCESS.RANDOM.tmp`. Whoever writes into the folder next
removes it, if that process is gone.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pld_grid.errors import InputError
from pld_grid.processes import Process

# Seconds after which nobody is still writing, on whatever machine.
_ABANDONED = 86400.0
_TEMPORARY = re.compile(r"\..*\.(?P<mark>[0-9a-f]{8}-\d+-\d+)\.[0-9a-f]{8}\.tmp")
_OWNER = "owner"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a folder; False also for what is too long, or no path at all."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


class NoFile(OSError):
    """What is there is no file with bytes of its own: a pipe, a device or a socket, which may never end."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file, to be read. Raises OSError: NoFile for what might keep one waiting."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise NoFile(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """A file's bytes, of a larger one the first `most` + 1. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        if most is None:
            return file.read()
        # Python takes memory for all that it is asked to read. The kernel's own files have no size.
        size = os.fstat(file.fileno()).st_size or most
        return file.read(min(size, most) + 1)


def write_whole(path: Path, data: bytes, durable: bool) -> None:
    """Writes a file beside its place and renames it, making folders as needed; `durable` also survives a power cut.

    Raises OSError, and leaves nothing behind then.
    """
    temporary = _beside(path)
    try:
        # Never through what lies there: a link of that name would lead to any file.
        with temporary.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _clear(path)


def create_whole(path: Path, data: bytes) -> None:
    """Writes a file that must not be there yet, making folders as needed: readers see it whole or not at all.

    Raises FileExistsError, or another OSError, and leaves nothing behind then. Does not wait for the disk.
    """
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
        # Unlike a rename, a link never replaces what is there.
        path.hardlink_to(temporary)
    except FileExistsError:
        # A network file system may say so of the link that it has just made.
        if temporary.stat().st_nlink < 2:
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            raise
        except OSError:
            path.unlink(missing_ok=True)
            raise
    finally:
        temporary.unlink(missing_ok=True)
    _clear(path)


def _beside(path: Path) -> Path:
    """Where a file is written before it gets its name; makes the folder as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{Process.own().mark}.{uuid.uuid4().hex[:8]}.tmp")


def _clear(path: Path) -> None:
    """Removes what dead processes left beside a file that has just been written."""
    with contextlib.suppress(OSError):
        for beside in path.parent.iterdir():
            match = _TEMPORARY.fullmatch(beside.name)
            if match is None:
                continue
            writer = Process.of_mark(match["mark"])
            # By the clock of the file system, which both times are of.
            old = path.stat().st_mtime - beside.stat().st_mtime > _ABANDONED
            if old or (writer is not None and writer.gone):
                beside.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(prefix: str, place: str | None = None) -> Iterator[str]:
    """An empty folder, in one that only this user can open; both go with the block.

    Those of dead processes of this user with the same prefix go now.

    Args:
        place: where; default: the system's place for temporary files.
    """
    place = place or tempfile.gettempdir()
    _clear_folders(Path(place), prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as outer:
        Path(outer, _OWNER).write_text(Process.own().mark)
        # Ray's sockets need short paths.
        folder = Path(outer, "d")
        folder.mkdir()
        yield str(folder)


def _clear_folders(place: Path, prefix: str) -> None:
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{prefix}*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found = folder.lstat()
                owner = Process.of_mark((folder / _OWNER).read_text())
                # Nobody else's, whose folder might be a trap.
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and owner is not None and owner.gone:
                    shutil.rmtree(folder, ignore_errors=True)


def write_changed(path: Path, data: bytes) -> bool:
    """Writes a file whole, or not at all if it already holds the data; says whether it wrote. Raises InputError."""
    try:
        if path.is_file() and path.read_bytes() == data:
            return False
        write_whole(path, data, durable=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return True


def _sync_folder(folder: Path) -> None:
    """Makes a rename in a folder survive a power cut, on file systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
