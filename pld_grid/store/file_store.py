"""Files that readers see whole or not at all, on any file system that fsspec knows.

Small files contain their own checksum; the checksum of a large file is in another file, its manifest. Local files are
written beside their place and renamed; object stores put whole objects. Damaged files are renamed, never removed.
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

from pld_grid.experiment.cell import canonical_json
from pld_grid.util.atomic_files import NotARegularFile, atomic_create, atomic_write, read_regular
from pld_grid.util.errors import StoreError, StoreFull
from pld_grid.util.redact import public_store_uri
from pld_grid.util.text import one_line

logger = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
_CHECKED = re.compile(rb'\{"sha256":"(?P<sha256>[0-9a-f]{64})","content":(?P<body>.*)\}\n', re.DOTALL)
MAX_JSON_BYTES = 64 * 2**20  # a receipt of 100,000 epochs has half of that
RETRY_TIMEOUT_SECONDS = 600.0  # for which a run, which may take weeks, waits for a store that cannot be reached
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 10.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors of disks, networks and servers that may be gone at the next try.
_TRANSIENT_NAMES = (
    "EAGAIN EBUSY EINTR EIO ESTALE ETIMEDOUT EPIPE EREMOTEIO ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN "
    "EHOSTUNREACH ENETDOWN ENETUNREACH ENOTCONN ESHUTDOWN"
)
_TRANSIENT = frozenset(getattr(errno, name) for name in _TRANSIENT_NAMES.split())


def sha256(data: bytes) -> str:
    """Return the hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


class Files:
    """The files of one store. Every method raises StoreError if the store cannot be used, StoreFull if it has no space.

    Args:
        uri: a local path or any fsspec URI (`s3://bucket/prefix`, `memory://x`).
        retry_timeout: seconds for which transient errors are retried.
    """

    def __init__(self, uri: str | os.PathLike[str], retry_timeout: float = 0.0) -> None:
        self._private_uri, self.retry_timeout = os.fspath(uri), retry_timeout
        # The URI without a password, for messages and stored files.
        self.uri = public_store_uri(self._private_uri)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self._private_uri)
        except Exception as error:
            # Other exceptions are internals of a file system.
            known = isinstance(error, ValueError | ImportError | OSError)
            reason = self._redact(error) if known else "nothing can be kept there"
            raise StoreError(one_line(f"store {self.uri}: {reason}")) from None
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        # Object stores also raise their clients' own exceptions, such as botocore's.
        self._errors = (OSError,) if self.local else (Exception,)

    def path(self, *parts: str) -> str:
        """Return the path of a file. Raises StoreError for a path that leads out of the store, by a name or a link."""
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
        """Write a file atomically. A folder in its place is quarantined.

        Args:
            data: the content.
            parts: the path in the store.
            durable: whether the file must survive a power cut. Checkpoints need not: a damaged one is detected, and
                costs the epochs since the one before.
        """
        path = self.path(*parts)
        if self.local and os.path.isdir(path):
            self.quarantine("it is a folder", *parts)

        def write() -> None:
            if self.local:
                atomic_write(Path(path), data, durable)
            else:
                self.fs.pipe_file(path, data)

        self._retry("write", parts, write, len(data))

    def create(self, data: bytes, *parts: str) -> bool:
        """Write a file unless it exists; return whether this call created it. Of concurrent calls, one succeeds.

        Object stores decide by a conditional put, which s3fs and gcsfs support.
        """
        path = self.path(*parts)

        def create() -> bool:
            try:
                if self.local:
                    atomic_create(Path(path), data)
                else:
                    self.fs.pipe_file(path, data, mode="create")
            except self._errors as error:
                if self.local and not isinstance(error, FileExistsError):
                    raise
                # S3 may refuse both of two concurrent puts. A put whose answer was lost may have succeeded.
                existing = self.read(*parts)
                if existing is None:
                    raise
                return existing == data
            return True

        return self._retry("write", parts, create, len(data))

    def read(self, *parts: str) -> bytes | None:
        """Return a file's bytes, or None if there is no file. Of a JSON file that is too large, it returns a part."""
        path, max_bytes = self.path(*parts), MAX_JSON_BYTES if parts[-1].endswith(".json") else None

        def read() -> bytes | None:
            try:
                data: bytes = read_regular(path, max_bytes) if self.local else self.fs.cat_file(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (IsADirectoryError, NotARegularFile):
                # The caller finds that it is damaged.
                return b""
            return data

        return self._retry("read", parts, read)

    def _retry(self, verb: str, parts: Iterable[str], call: Callable[[], T], size: int = 0) -> T:
        """Call the file system, and again while its error may be transient.

        Raises StoreError for all errors but FileNotFoundError.
        """
        deadline, pause = time.monotonic() + self.retry_timeout, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except (FileNotFoundError, StoreError):
                raise
            except self._errors as error:
                store_error = self._convert(f"cannot {verb}", parts, error, size)
                if not _is_transient(error) or time.monotonic() + pause > deadline:
                    raise store_error from error
                if pause == _FIRST_PAUSE_SECONDS:
                    logger.warning("%s; tried again for %.0f s", store_error, self.retry_timeout)
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    def _convert(self, action: str, parts: Iterable[str], error: Exception, size: int) -> StoreError:
        """Return the StoreError for an error of the file system."""
        reason = getattr(error, "strerror", None) or self._redact(error) or type(error).__name__
        place = f"store {self.uri}: {action} {'/'.join(parts)}"
        if isinstance(error, OSError) and error.errno in _FULL:
            return StoreFull(one_line(f"{place} ({size / 2**20:.1f} MiB): {reason}; {self._describe_space()}"))
        return StoreError(one_line(f"{place}: {reason}".replace(" : ", ": ")))

    def _redact(self, error: Exception) -> str:
        """Return an error's text, which may contain the URI as it was given, without a password."""
        return str(error).replace(self._private_uri, self.uri)

    def _describe_space(self) -> str:
        with contextlib.suppress(OSError):
            disk = os.statvfs(self.root)
            return f"{disk.f_bavail * disk.f_frsize / 2**20:.1f} MiB are free"
        return "free some space"

    def names(self, *parts: str) -> list[str]:
        """Return the names in a folder, or none if there is no such folder. A file in its place is quarantined."""
        path = self.path(*parts)

        def list_names() -> list[str]:
            # fsspec caches listings, and other processes write too.
            self.fs.invalidate_cache(path)
            names: list[str] = self.fs.ls(path, detail=False)
            return names

        try:
            names = self._retry("list", parts, list_names)
        except FileNotFoundError:
            return []
        if [name.rstrip("/") for name in names] == [path.rstrip("/")]:
            if not parts:
                raise StoreError(f"store {self.uri}: it is a file, not a folder")
            # Readers without write access ignore the file.
            with contextlib.suppress(StoreError):
                self.quarantine("it is a file, not a folder", *parts)
            return []
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in names]

    def check_writable(self) -> None:
        """Raise StoreError unless a small file can be written, read back, created only once, and removed."""
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
        """Remove a file or folder, if it exists."""
        path = self.path(*parts)

        def remove() -> None:
            self.fs.invalidate_cache(path)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self.fs.rm(path, recursive=True)

        self._retry("remove", parts, remove)

    def rename(self, old: tuple[str, ...], new: tuple[str, ...], last: str = "") -> None:
        """Rename a file or folder. Object stores copy and then remove, so for a while both may exist.

        Args:
            old: the path in the store.
            new: the new path.
            last: a folder inside `old` whose files are removed last.

        Raises:
            FileNotFoundError: there is nothing at the old path.
        """
        source, target = self.path(*old), self.path(*new)

        def rename() -> None:
            if self.local:
                Path(source).lstat()
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                Path(source).rename(target)
            else:
                self._move_objects(source, target, f"{source}/{last}/")

        self._retry("rename", old, rename)

    def _move_objects(self, source: str, target: str, last: str) -> None:
        """Move objects one by one, because a recursive copy of s3fs also copies the folder itself, which is no object.

        In the order of names, a cell's receipt is removed before its weights: a process that dies in between leaves no
        receipt without weights.
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
        """Write a model as a small file with its own checksum."""
        self.write(add_checksum(model), *parts)

    def read_checked(self, *parts: str) -> bytes | None:
        """Return the JSON that `write_model` wrote; a damaged file is quarantined and counts as missing."""
        data = self.read(*parts)
        body = verify_checksum(data) if data is not None else None
        if data is not None and body is None:
            # Readers without write access ignore the file.
            with contextlib.suppress(StoreError):
                reason = "it is too large" if len(data) > MAX_JSON_BYTES else "its checksum is wrong"
                self.quarantine(reason if data else "it is empty", *parts)
        return body

    def read_model(self, model: type[M], *parts: str) -> M | None:
        """Return what `write_model` wrote; None also for an intact file of another version's model, which stays."""
        data = self.read_checked(*parts)
        try:
            return None if data is None else model.model_validate_json(data)
        except ValidationError:
            return None

    def quarantine(self, reason: str, *parts: str) -> None:
        """Rename a file that cannot be used. Nothing happens if it is gone."""
        del reason
        with contextlib.suppress(FileNotFoundError):
            self.rename(parts, (*parts[:-1], f"{parts[-1]}.damaged-{uuid.uuid4().hex[:8]}"))


def _is_transient(error: Exception) -> bool:
    """Return whether an error may be gone at the next try: not if the place is full, forbidden or no file."""
    if isinstance(error, OSError):
        return error.errno in _TRANSIENT or isinstance(error, ConnectionError | TimeoutError)
    # Exceptions of object stores' clients; a built-in one is a bug of ours.
    return type(error).__module__ != "builtins"


def add_checksum(model: BaseModel) -> bytes:
    """Return a model's JSON together with its checksum."""
    body = canonical_json(model)
    return f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'.encode()


def verify_checksum(data: bytes) -> bytes | None:
    """Return the JSON of `add_checksum`, or None if it is damaged."""
    match = _CHECKED.fullmatch(data)
    return match["body"] if match is not None and sha256(match["body"]) == match["sha256"].decode() else None
