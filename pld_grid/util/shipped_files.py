"""Find grids, profiles, printed tables and claims: in the current folder, else among those that ship with the package.

Their sources are the top-level folders `grids` and `reports/paper`, which a clone uses directly. A wheel has copies of
them in `pld_grid/shipped` (see `setup.py`); pip unpacks wheels, so the copies are files as well.
"""

import contextlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("pld_grid")))
_IN_WHEEL = _PACKAGE / "shipped"
_SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent


def search_path(folder: str) -> tuple[Path, Path]:
    """Return where a shipped folder may lie, in the order of precedence: the current folder, then the shipped one."""
    return Path(folder), _SHIPPED / folder


def find_shipped(folder: str) -> Path | None:
    """Return the first existing folder of `search_path`, or None if there is none."""
    return next((path for path in search_path(folder) if path.is_dir()), None)


def list_yaml_files(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the YAML files of folders by name, without .yaml; of several with one name, that of the first folder."""
    by_name: dict[str, Path] = {}
    for folder in reversed([*folders]):
        # A folder without access counts as empty.
        with contextlib.suppress(OSError):
            by_name |= {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return by_name


def is_path(name: str | Path) -> bool:
    """Return whether a name is a path: it has a slash or the ending of a YAML file, or there is such a file."""
    path = Path(name)
    if "/" in str(name) or path.suffix in (".yaml", ".yml"):
        return True
    # The name may be too long for a file.
    with contextlib.suppress(OSError):
        return path.is_file()
    return False
