"""Whether a folder holds just the report that follows from its records."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pld_grid.errors import InputError
from pld_grid.files import read_regular

AROUND = 40  # characters shown on either side of a difference


@dataclass(frozen=True)
class Difference:
    """A file that is not as it should be; `detail` says where."""

    name: str
    kind: Literal["differs", "missing", "extra"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}" + (f": {self.detail}" if self.detail else "")


def check(folder: str | Path, files: Mapping[str, bytes]) -> list[Difference]:
    """What distinguishes a folder from the files that it should hold, by name; names are relative, with slashes.

    Text, SVG included, must be equal byte for byte; of PNGs the pixels, as compressors differ. Hidden files may be
    there or not. Raises InputError if the folder cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    there = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    found = []
    for name in sorted({*files, *there}):
        if name not in there:
            found.append(Difference(name, "missing"))
        elif name in files:
            detail = _difference(name, _read(there[name]), files[name])
            found += [Difference(name, "differs", detail)] if detail else []
        elif not _hidden(name):
            found.append(Difference(name, "extra"))
    return found


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _difference(name: str, there: bytes, wanted: bytes) -> str:
    """Where two contents first differ; empty if they do not."""
    if there == wanted:
        return ""
    if name.endswith(".png"):
        return _pixels(there, wanted)
    try:
        ours, theirs = there.decode().split("\n"), wanted.decode().split("\n")
    except UnicodeDecodeError:
        return f"{len(there)} bytes, not the {len(wanted)} that follow"
    number = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if number is None:
        return f"{len(ours) - 1} lines, not the {len(theirs) - 1} that follow"
    return "line {}: {} does not follow, but {}".format(number + 1, *_around(ours[number], theirs[number]))


def _around(there: str, wanted: str) -> tuple[str, str]:
    """Two lines about the place where they first differ: a page's lines are long."""
    pairs = enumerate(zip(there, wanted, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(there), len(wanted)))
    cut = slice(max(0, place - AROUND), place + AROUND)
    return f'"{there[cut]}"', f'"{wanted[cut]}"'


def _pixels(there: bytes, wanted: bytes) -> str:
    from PIL import Image, ImageChops

    pictures = []
    for data in (there, wanted):
        try:
            with Image.open(io.BytesIO(data)) as picture:
                pictures.append(picture.convert("RGBA"))
        except (OSError, ValueError, SyntaxError):
            return "is no picture"
    ours, theirs = pictures
    if ours.size != theirs.size:
        return "{}x{} pixels, not {}x{}".format(*ours.size, *theirs.size)
    box = ImageChops.difference(ours, theirs).getbbox(alpha_only=False)
    return "" if box is None else "pixels differ between ({}, {}) and ({}, {})".format(*box)
