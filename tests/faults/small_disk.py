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
    """A mounted file system of some MiB, and a file that takes as much of it as one likes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def resize(self, size: int) -> None:
        """Makes the file system larger, or smaller than it was."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    @contextmanager
    def full(self, leave: int = 0) -> Iterator[None]:
        """Takes all but `leave` bytes, and what falls free meanwhile, until the block ends."""
        filler, over = self.path / _FILLER, threading.Event()

        def fill() -> None:
            with filler.open("ab", buffering=0) as file:
                while (surplus := self.free - leave) > 0:
                    try:
                        file.write(bytes(min(surplus, MIB)))
                    except OSError:
                        return

        def keep_full() -> None:
            while not over.wait(0.005):
                fill()

        fill()
        thread = threading.Thread(target=keep_full)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            filler.unlink()


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """A tmpfs of `size` bytes at a folder; skips the test where this user may not mount one."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "pld_grid-test", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # What is still open there, by whom a test forgot, must not keep it from being cleaned up.
        subprocess.run(["umount", "--lazy", str(path)], check=True)
