"""Local files that readers see whole or not at all."""

import contextlib
import errno
import os
import uuid
from pathlib import Path

from pld_grid.errors import InputError

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a folder; False also for what is too long, or no path at all."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def write_whole(path: Path, data: bytes, durable: bool) -> None:
    """Writes a file beside its place and renames it, making folders as needed; `durable` also survives a power cut.

    Raises OSError, and leaves nothing behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
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


def create_whole(path: Path, data: bytes) -> None:
    """Writes a file that must not be there yet, making folders as needed: readers see it whole or not at all.

    Raises FileExistsError, or another OSError, and leaves nothing behind then. Does not wait for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(data)
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
