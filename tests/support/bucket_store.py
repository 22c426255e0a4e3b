"""A slow object store: `bucket://name/key`, an fsspec file system over a local folder.

Like S3, it has no folders and no renames: objects are put as a whole, a conditional put succeeds for one process only,
a move is a slow copy followed by a removal, and listings are cached until they are invalidated. All processes whose
environment has PLD_GRID_TEST_BUCKETS share it.
"""

import contextlib
import os
import random
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec
from fsspec.spec import AbstractFileSystem

FOLDER = "PLD_GRID_TEST_BUCKETS"

# Code for a `sitecustomize` of processes that can import this module.
REGISTERED = """
import fsspec

fsspec.register_implementation("bucket", "bucket_store.BucketStore", clobber=True)
"""


class BucketStore(AbstractFileSystem):
    """Objects as files of one folder, named by their keys."""

    protocol = "bucket"
    cachable = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.place = Path(os.environ[FOLDER])
        self.lists: dict[str, list[dict[str, Any]]] = {}

    def _file(self, path: str) -> Path:
        return self.place / quote(self._strip_protocol(path), safe="")

    # -- objects -------------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes of an object."""
        return self._file(path).read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Put an object; with `mode="create"` only if it does not exist."""
        new = self.place.parent / uuid.uuid4().hex
        new.write_bytes(value)
        try:
            if mode == "create":
                self._file(path).hardlink_to(new)
            else:
                new.replace(self._file(path))
        finally:
            new.unlink(missing_ok=True)
        self.invalidate_cache(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy an object, slowly."""
        self.pipe_file(path2, self.cat_file(path1))
        time.sleep(random.uniform(0, 0.05))

    def rm_file(self, path: str) -> None:
        """Remove an object if it exists."""
        self._file(path).unlink(missing_ok=True)
        self.invalidate_cache(path)
        time.sleep(random.uniform(0, 0.01))

    # -- lists ---------------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        """Return the cached listing of a prefix."""
        path = self._strip_protocol(path).rstrip("/")
        if path not in self.lists:
            self.lists[path] = self._list(path)
        entries = self.lists[path]
        if not entries:
            raise FileNotFoundError(path)
        return entries if detail else [entry["name"] for entry in entries]

    def _list(self, path: str) -> list[dict[str, Any]]:
        keys = [unquote(file.name) for file in self.place.iterdir()]
        under = [key[len(path) + 1 :] for key in keys if key.startswith(f"{path}/")]
        names = {name.split("/")[0]: "/" in name for name in under}
        entries = [
            {"name": f"{path}/{name}", "size": 0, "type": "directory" if folder else "file"}
            for name, folder in sorted(names.items())
        ]
        if not entries and path in keys:
            entries = [{"name": path, "size": 0, "type": "file"}]
        return entries

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what an object or prefix is."""
        path = self._strip_protocol(path).rstrip("/")
        with contextlib.suppress(FileNotFoundError):
            size = self._file(path).stat().st_size
            return {"name": path, "size": size, "type": "file"}
        self.ls(path)
        return {"name": path, "size": 0, "type": "directory"}

    def invalidate_cache(self, path: str | None = None) -> None:
        """Drop the cached listings that contain a path."""
        if path is None:
            self.lists.clear()
            return
        path = self._strip_protocol(path).rstrip("/")
        while path:
            self.lists.pop(path, None)
            path = path.rpartition("/")[0]

    def rmdir(self, path: str) -> None:
        """Do nothing: there are no folders."""


def register() -> None:
    """Register `bucket://` in this process."""
    fsspec.register_implementation("bucket", BucketStore, clobber=True)
