"""An object store that is slow to tell the truth: `bucket://name/key`, an fsspec file system over a folder.

As in S3 there are no folders and no renames: an object is put whole or not at all, a conditional put says who was
first, a move is a copy and then a removal, with time to die in between, and lists are remembered until somebody says
that they are old. All processes whose environment has PLD_GRID_TEST_BUCKETS share it.
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

# For a `sitecustomize` in a process that can import this module.
REGISTERED = """
import fsspec

fsspec.register_implementation("bucket", "bucket_store.BucketStore", clobber=True)
"""


class BucketStore(AbstractFileSystem):
    """Objects in a folder, one file each, named by their keys."""

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
        """The bytes of an object, as they are now."""
        return self._file(path).read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Puts an object; with `mode="create"` only where there is none."""
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
        """Copies an object, which takes its time."""
        self.pipe_file(path2, self.cat_file(path1))
        time.sleep(random.uniform(0, 0.05))

    def rm_file(self, path: str) -> None:
        """Removes an object; it is no error if there is none."""
        self._file(path).unlink(missing_ok=True)
        self.invalidate_cache(path)
        time.sleep(random.uniform(0, 0.01))

    # -- lists ---------------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        """What was under a prefix when this process last looked."""
        path = self._strip_protocol(path).rstrip("/")
        if path not in self.lists:
            self.lists[path] = self._look(path)
        found = self.lists[path]
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [entry["name"] for entry in found]

    def _look(self, path: str) -> list[dict[str, Any]]:
        keys = [unquote(file.name) for file in self.place.iterdir()]
        under = [key[len(path) + 1 :] for key in keys if key.startswith(f"{path}/")]
        names = {name.split("/")[0]: "/" in name for name in under}
        found = [
            {"name": f"{path}/{name}", "size": 0, "type": "directory" if folder else "file"}
            for name, folder in sorted(names.items())
        ]
        if not found and path in keys:
            found = [{"name": path, "size": 0, "type": "file"}]
        return found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What an object or prefix was when this process last looked."""
        path = self._strip_protocol(path).rstrip("/")
        with contextlib.suppress(FileNotFoundError):
            size = self._file(path).stat().st_size
            return {"name": path, "size": size, "type": "file"}
        self.ls(path)
        return {"name": path, "size": 0, "type": "directory"}

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forgets the lists that a path is in."""
        if path is None:
            self.lists.clear()
            return
        path = self._strip_protocol(path).rstrip("/")
        while path:
            self.lists.pop(path, None)
            path = path.rpartition("/")[0]

    def rmdir(self, path: str) -> None:
        """There are no folders."""


def register() -> None:
    """Lets this process use `bucket://`."""
    fsspec.register_implementation("bucket", BucketStore, clobber=True)
