"""A file system that is small enough to fill."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KIB, MIB = 2**10, 2**20
_FILLER = "filler"


class SmallDisk:
    """A mounted file system of some MiB that can be filled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """The free bytes."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def resize(self, size: int) -> None:
        """Change the size of the file system."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    @contextmanager
    def full(self, leave: int = 0) -> Iterator[None]:
        """Keep all but `leave` bytes occupied until the block ends."""
        filler, stop = self.path / _FILLER, threading.Event()

        def fill() -> None:
            with filler.open("ab", buffering=0) as file:
                while (surplus := self.free - leave) > 0:
                    try:
                        file.write(bytes(min(surplus, MIB)))
                    except OSError:
                        return

        def keep_full() -> None:
            while not stop.wait(0.005):
                fill()

        fill()
        thread = threading.Thread(target=keep_full)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            filler.unlink()


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs of `size` bytes at a folder; skip the test where this user may not."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "pld_grid-test", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # Lazily, because a forgotten process may still have files open there.
        subprocess.run(["umount", "--lazy", str(path)], check=True)
