"""Compare a report's folder with the files that follow from its records."""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pld_grid.util.atomic_files import read_regular
from pld_grid.util.errors import InputError

MAX_CONTEXT = 40  # characters shown on either side of a difference


@dataclass(frozen=True)
class FileDifference:
    """A file that is not as expected; `detail` says where."""

    name: str
    kind: Literal["differs", "missing", "extra"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}" + (f": {self.detail}" if self.detail else "")


def compare_folder(folder: str | Path, expected: Mapping[str, bytes]) -> list[FileDifference]:
    """Return the differences between a folder and the expected files, by name; names are relative, with slashes.

    Text, SVG included, must be equal byte for byte; PNGs must have equal pixels, because compressors differ. Hidden
    files are ignored. Raise InputError if the folder cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    actual = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    differences = []
    for name in sorted({*expected, *actual}):
        if name not in actual:
            differences.append(FileDifference(name, "missing"))
        elif name in expected:
            if detail := _compare(name, _read(actual[name]), expected[name]):
                differences.append(FileDifference(name, "differs", detail))
        elif not any(part.startswith(".") for part in name.split("/")):
            differences.append(FileDifference(name, "extra"))
    return differences


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _compare(name: str, actual: bytes, expected: bytes) -> str:
    """Return where two contents first differ; empty if they do not."""
    if actual == expected:
        return ""
    if name.endswith(".png"):
        return _compare_pixels(actual, expected)
    try:
        actual_lines, expected_lines = actual.decode().split("\n"), expected.decode().split("\n")
    except UnicodeDecodeError:
        return f"{len(actual)} bytes, expected {len(expected)}"
    same = _count_equal(actual_lines, expected_lines)
    if same in (len(actual_lines), len(expected_lines)):
        return f"{len(actual_lines) - 1} lines, expected {len(expected_lines) - 1}"
    return f"line {same + 1}: {_quote_difference(actual_lines[same], expected_lines[same])}"


def _count_equal(actual: Sequence[str], expected: Sequence[str]) -> int:
    """Return how many items two sequences have in common before their first difference."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(actual, expected, strict=False)))


def _quote_difference(actual: str, expected: str) -> str:
    """Return the parts of two lines around their first difference; the lines of a page are long."""
    place = _count_equal(actual, expected)
    cut = slice(max(0, place - MAX_CONTEXT), place + MAX_CONTEXT)
    return f'"{actual[cut]}", expected "{expected[cut]}"'


def _compare_pixels(actual: bytes, expected: bytes) -> str:
    from PIL import Image, ImageChops

    try:
        first, second = (Image.open(io.BytesIO(data)).convert("RGBA") for data in (actual, expected))
    except (OSError, ValueError, SyntaxError):
        return "not a PNG picture"
    if first.size != second.size:
        return "{}x{} pixels, expected {}x{}".format(*first.size, *second.size)
    box = ImageChops.difference(first, second).getbbox(alpha_only=False)
    return "" if box is None else "pixels differ between ({}, {}) and ({}, {})".format(*box)
