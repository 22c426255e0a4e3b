"""Local files that readers see whole or not at all.

A file is written under the temporary name `.NAME.RANDOM.tmp` beside its place, and then renamed. A process that is
killed in between leaves the temporary file. Every write removes such files from its folder once they are older than
`MAX_WRITE_SECONDS`.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pld_grid.util.errors import InputError

MAX_WRITE_SECONDS = 6 * 3600.0  # no write takes as long, so an older temporary file has lost its writer
MIN_ABANDONED_SECONDS = 60.0  # a younger temporary folder may not be locked yet
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")
_LOCK = "lock"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether there is such a folder; False also for a path that is too long or invalid."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


class NotARegularFile(OSError):
    """The path leads to a pipe, a device or a socket, which may never end."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. Raises OSError, and NotARegularFile for what might block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise NotARegularFile(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> bytes:
    """Return a file's bytes, of a larger one the first `max_bytes` + 1. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        if max_bytes is None:
            return file.read()
        # `read` allocates all the memory that it is asked for. Files in /proc have size 0.
        size = os.fstat(file.fileno()).st_size or max_bytes
        return file.read(min(size, max_bytes) + 1)


def atomic_write(path: Path, data: bytes, durable: bool) -> None:
    """Write or replace a file, and make its folders as needed.

    Args:
        path: the file.
        data: its new content.
        durable: whether the file must survive a power cut.

    Raises:
        OSError: nothing was changed, and no temporary file is left.
    """
    with _temporary_file(path, data, durable) as temporary:
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)


def atomic_create(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, and make its folders as needed; it need not survive a power cut.

    Raises:
        FileExistsError: there is such a file.
        OSError: nothing was changed, and no temporary file is left.
    """
    with _temporary_file(path, data, durable=False) as temporary:
        try:
            # Unlike a rename, a link never replaces an existing file.
            path.hardlink_to(temporary)
        except FileExistsError:
            # A network file system may report this although it has just made the link.
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


@contextlib.contextmanager
def _temporary_file(path: Path, data: bytes, durable: bool) -> Iterator[Path]:
    """Yield a new file beside a path, and remove it afterwards, as well as those of killed processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        # "x" never follows a link of this name, which another user may have made.
        with temporary.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    _remove_abandoned_files(path)


def _remove_abandoned_files(path: Path) -> None:
    """Remove old temporary files beside a file that has just been written."""
    with contextlib.suppress(OSError):
        # Both times are from the clock of the file system, which may differ from this machine's.
        now = path.lstat().st_mtime
        for file in path.parent.iterdir():
            if _TEMPORARY.fullmatch(file.name) and now - file.lstat().st_mtime > MAX_WRITE_SECONDS:
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(prefix: str, place: str | None = None) -> Iterator[str]:
    """Yield an empty folder that only this user can open, and remove it afterwards.

    The folder stays locked as long as this process lives. Folders of the same prefix and user whose process was killed
    are not locked any more, and are removed now.

    Args:
        prefix: begins the folder's name.
        place: where to make it; default: the system's place for temporary files.
    """
    place = place or tempfile.gettempdir()
    _remove_abandoned_folders(Path(place), prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as outer:
        # Short names, because the paths of Ray's sockets must be short.
        folder = Path(outer, "d")
        folder.mkdir()
        with Path(outer, _LOCK).open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield str(folder)


def _remove_abandoned_folders(place: Path, prefix: str) -> None:
    for folder in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            info = folder.lstat()
            # A link, or a folder of another user, might be a trap.
            ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid()
            if ours and time.time() - info.st_mtime > MIN_ABANDONED_SECONDS:
                with (folder / _LOCK).open("rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)


def write_changed(path: Path, data: bytes) -> bool:
    """Write a file unless it already has this content; return whether it was written. Raises InputError."""
    try:
        if path.is_file() and path.read_bytes() == data:
            return False
        atomic_write(path, data, durable=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, on file systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
