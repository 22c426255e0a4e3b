"""Files that are whole or absent, on any file system that fsspec reaches.

Small files carry their own checksum, large ones are named with theirs by a manifest. Local writes go through a rename;
object stores put whole objects. What is damaged is set aside (renamed, never removed).
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import fsspec
from pydantic import BaseModel, ValidationError

from pld_grid.errors import StoreError, StoreFull
from pld_grid.files import NoFile, create_whole, read_regular, write_whole
from pld_grid.reading import one_line
from pld_grid.spec import canonical_json
from pld_grid.uris import public_store_uri

logger = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
_ENVELOPE = re.compile(rb'\{"sha256":"(?P<sha256>[0-9a-f]{64})","content":(?P<body>.*)\}\n', re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Bytes of a small file, of which a receipt of 100,000 epochs has half.
LARGEST = 64 * 2**20
# Seconds for which a run, which may go on for weeks, waits for a store that is out of reach.
PATIENCE = 600.0
_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
# What a disk, a network or a server may say now, and no longer in a while.
_PASSING = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE, errno.EREMOTEIO,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENOTCONN, errno.ESHUTDOWN,
})  # fmt: skip


def sha256(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


class Files:
    """All reads and writes of one store.

    Args:
        uri: a local path or any fsspec URI (`s3://bucket/prefix`, `memory://x`).
        patience: seconds for which what may pass is tried again.

    Everything raises StoreError if the place cannot be used, of which StoreFull says that it has no room.
    """

    def __init__(self, uri: str | os.PathLike[str], patience: float = 0.0) -> None:
        self._given, self.patience = os.fspath(uri), patience
        # What is printed and kept.
        self.uri = public_store_uri(self._given)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self._given)
        except Exception as error:
            # What else a file system raises says nothing to who gave the address.
            known = isinstance(error, ValueError | ImportError | OSError)
            said = self._said(error) if known else "nothing can be kept there"
            raise StoreError(one_line(f"store {self.uri}: {said}")) from None
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        # Object stores pass on what their clients raise, such as botocore's own errors.
        self._errors = (OSError,) if self.local else (Exception,)

    def path(self, *parts: str) -> str:
        """The path of a file inside the store. Raises StoreError for one that leads out of it, by a name or a link."""
        path: str = self.root.rstrip("/")
        for part in parts:
            path = f"{path}/{part}"
            if part in (".", "..") or "/" in part:
                raise StoreError(one_line(f"store {self.uri}: {part!r} is no name of a file"))
            if self.local and os.path.islink(path):
                place = f"store {self.uri}: {'/'.join(parts)}"
                raise StoreError(one_line(f"{place}: {part} is a link, which is not followed"))
        return path

    def write(self, data: bytes, *parts: str, durable: bool = True) -> None:
        """Writes a file so that readers see it whole or not at all. A folder in its place is set aside.

        `durable` also survives a power cut; checkpoints do without, as a torn one is detected and costs one interval.
        """
        path = self.path(*parts)
        if self.local and os.path.isdir(path):
            self.set_aside("it is a folder", *parts)

        def put() -> None:
            if self.local:
                write_whole(Path(path), data, durable)
            else:
                self.fs.pipe_file(path, data)

        self._do("write", parts, put, len(data))

    def create(self, data: bytes, *parts: str) -> bool:
        """Writes a file that is not there yet; False, and nothing changed, if it is: of several who try, one may.

        Object stores decide by a conditional put, which s3fs and gcsfs know.
        """
        path = self.path(*parts)

        def put() -> bool:
            try:
                if self.local:
                    create_whole(Path(path), data)
                else:
                    self.fs.pipe_file(path, data, mode="create")
            except self._errors as error:
                if self.local and not isinstance(error, FileExistsError):
                    raise
                # S3 also refuses one of two puts at the same time. Ours may be there of which no answer came.
                there = self.read(*parts)
                if there is None:
                    raise
                return there == data
            return True

        return self._do("write", parts, put, len(data))

    def read(self, *parts: str) -> bytes | None:
        """A file's bytes, or None if there is none; of a small file that is larger than all are, some of them."""
        path, most = self.path(*parts), LARGEST if parts[-1].endswith(".json") else None

        def get() -> bytes | None:
            try:
                data: bytes = read_regular(path, most) if self.local else self.fs.cat_file(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (IsADirectoryError, NoFile):
                # As damaged as a file can be.
                return b""
            return data

        return self._do("read", parts, get)

    def _do(self, what: str, parts: Iterable[str], call: Callable[[], T], size: int = 0) -> T:
        """Makes a call of the file system, once more while it may help; what it raises is an error of the store's.

        FileNotFoundError is raised as it is.
        """
        until, pause = time.monotonic() + self.patience, _PAUSE
        while True:
            try:
                return call()
            except (FileNotFoundError, StoreError):
                raise
            except self._errors as error:
                found = self._error(f"cannot {what}", parts, error, size)
                if not _may_pass(error) or time.monotonic() + pause > until:
                    raise found from error
                if pause == _PAUSE:
                    logger.warning("%s; tried again for %.0f s", found, self.patience)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _error(self, what: str, parts: Iterable[str], error: Exception, size: int = 0) -> StoreError:
        reason = getattr(error, "strerror", None) or self._said(error) or type(error).__name__
        place = f"store {self.uri}: {what} {'/'.join(parts)}"
        if isinstance(error, OSError) and error.errno in _FULL:
            return StoreFull(one_line(f"{place} ({size / 2**20:.1f} MiB): {reason}; {self._room()}"))
        return StoreError(one_line(f"{place}: {reason}".replace(" : ", ": ")))

    def _said(self, error: Exception) -> str:
        """An error's text, in which a file system may name the URI that it was given."""
        return str(error).replace(self._given, self.uri)

    def _room(self) -> str:
        with contextlib.suppress(OSError):
            found = os.statvfs(self.root)
            return f"{found.f_bavail * found.f_frsize / 2**20:.1f} MiB are free"
        return "free some space"

    def names(self, *parts: str) -> list[str]:
        """The names in a folder of the store; none if there is no such folder. A file in its place is set aside."""
        path = self.path(*parts)

        def get() -> list[str]:
            # Object stores remember listings, which others may have made old.
            self.fs.invalidate_cache(path)
            found: list[str] = self.fs.ls(path, detail=False)
            return found

        try:
            names = self._do("list", parts, get)
        except FileNotFoundError:
            return []
        if [name.rstrip("/") for name in names] == [path.rstrip("/")]:
            if not parts:
                raise StoreError(f"store {self.uri}: it is a file, not a folder")
            # Whoever may only read does without it all the same.
            with contextlib.suppress(StoreError):
                self.set_aside("it is a file, not a folder", *parts)
            return []
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in names]

    def check_writable(self) -> None:
        """Raises StoreError unless a small file can be written, read back, created only once, and removed."""
        name = f".probe-{uuid.uuid4().hex[:8]}"
        self.write(b"probe", name)
        if self.read(name) != b"probe":
            raise StoreError(f"store {self.uri}: what is written cannot be read back")
        if self.create(b"again", name):
            raise StoreError(
                f"store {self.uri}: its file system replaces files that should be new (no conditional put)"
            )
        self.remove(name)

    def remove(self, *parts: str) -> None:
        """Removes a file or folder; it is no error if there is none."""
        path = self.path(*parts)

        def drop() -> None:
            self.fs.invalidate_cache(path)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self.fs.rm(path, recursive=True)

        self._do("remove", parts, drop)

    def rename(self, old: tuple[str, ...], new: tuple[str, ...], last: str = "") -> None:
        """Gives a file or folder another name. Object stores copy and then remove, so both may be there for a while.

        Args:
            last: what is in the folder of this name within is removed last.

        Raises FileNotFoundError if there is nothing of the old name.
        """
        source, target = self.path(*old), self.path(*new)

        def move() -> None:
            if self.local:
                Path(source).lstat()
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                Path(source).rename(target)
            else:
                self._move(source, target, f"{source}/{last}/")

        self._do("rename", old, move)

    def _move(self, source: str, target: str, last: str) -> None:
        """Moves objects one by one: s3fs, asked for all of a folder, copies the folder itself too, which is nothing.

        By name a cell's receipt goes before its weights, so that whoever dies on the way leaves no result without them.
        """
        self.fs.invalidate_cache()
        names = sorted(self.fs.find(source))
        if not names:
            raise FileNotFoundError(source)
        for name in names:
            self.fs.copy(name, target + name[len(source) :])
        for name in sorted(names, key=lambda name: (name.startswith(last), name)):
            self.fs.rm_file(name)
        self.fs.invalidate_cache()

    def write_model(self, model: BaseModel, *parts: str) -> None:
        """Writes a small file with its own checksum."""
        self.write(enveloped(model), *parts)

    def read_checked(self, *parts: str) -> bytes | None:
        """What `write_model` wrote, as JSON; a damaged file is set aside and counts as absent."""
        data = self.read(*parts)
        if data is None:
            return None
        body = opened(data)
        if body is None:
            # Whoever may only read does without it all the same.
            with contextlib.suppress(StoreError):
                reason = "it is too large" if len(data) > LARGEST else "its checksum is wrong"
                self.set_aside(reason if data else "it is empty", *parts)
        return body

    def read_model(self, model: type[M], *parts: str) -> M | None:
        """A checked small file. A whole one that does not fit is another version's: it counts as absent and stays."""
        data = self.read_checked(*parts)
        try:
            return None if data is None else model.model_validate_json(data)
        except ValidationError:
            return None

    def set_aside(self, reason: str, *parts: str) -> None:
        """Renames a file that cannot be used, which is kept. Nothing happens if it is gone."""
        del reason
        with contextlib.suppress(FileNotFoundError):
            self.rename(parts, (*parts[:-1], f"{parts[-1]}.damaged-{uuid.uuid4().hex[:8]}"))


def _may_pass(error: Exception) -> bool:
    """Whether it may be otherwise in a while: not if something is full, forbidden or no file, or our own mistake."""
    if isinstance(error, OSError):
        return error.errno in _PASSING or isinstance(error, ConnectionError | TimeoutError)
    # What clients of object stores raise.
    return type(error).__module__ != "builtins"


def enveloped(model: BaseModel) -> bytes:
    """A model's JSON with its checksum."""
    body = canonical_json(model)
    return f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'.encode()


def opened(data: bytes) -> bytes | None:
    """The JSON in an envelope; None if it is damaged."""
    match = _ENVELOPE.fullmatch(data)
    return match["body"] if match is not None and sha256(match["body"]) == match["sha256"].decode() else None
