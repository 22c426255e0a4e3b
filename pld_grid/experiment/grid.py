"""Read a grid's YAML and expand it into every cell that its table needs."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid_blocks import GridBlocks
from pld_grid.experiment.grid_checks import check_blocks
from pld_grid.experiment.grid_expansion import Entry, Labels, count_entries, expand_blocks
from pld_grid.experiment.grid_schema import AXES, GridFile
from pld_grid.experiment.profile import Profile
from pld_grid.experiment.table_layout import Layout, check_labels, default_layout
from pld_grid.util.errors import InputError
from pld_grid.util.shipped_files import is_path, list_yaml_files, search_path
from pld_grid.util.strict_yaml import Document, Path_, read_file
from pld_grid.util.text import check_name, join_names, nearest, one_line, show, valid_names

MAX_CELLS = 2000
MAX_SEEDS = 10**15  # a plan holds far fewer; larger numbers could not be counted exactly everywhere

__all__ = ["AXES", "MAX_CELLS", "Entry", "Grid", "Labels", "expand", "find_grid", "load_grid", "matches"]


@dataclass(frozen=True)
class Grid:
    """An expanded grid under a profile. `seeds` is the number of seeds that replaced its own, or None."""

    name: str
    document: Document
    profile: Profile
    entries: tuple[Entry, ...]
    layout: Layout
    seeds: int | None = None

    def cells(self) -> Iterator[Cell]:
        """Yield every cell needed, teachers and repetitions included."""
        for entry in self.entries:
            yield entry.cell
            if entry.cell.teacher is not None:
                yield entry.cell.teacher

    def select(self, cell_ids: Collection[str]) -> "Grid":
        """Return the grid with only some of its cells and their teachers, to run them; its table has holes."""
        wanted = frozenset(cell_ids)
        entries = [entry for entry in self.entries if entry.cell.cell_id in wanted]
        selected = {entry.cell.cell_id for entry in entries}
        for entry in self.entries:
            teacher = entry.cell.teacher
            if teacher is not None and teacher.cell_id in wanted - selected:
                selected.add(teacher.cell_id)
                labels = {"teacher": entry.labels["teacher"], "loss": "teacher"}
                entries.append(Entry(labels, teacher, "teacher", entry.block))
        return replace(self, entries=tuple(entries))


def find_grid(name: str | Path) -> Path:
    """Return the file of a grid.

    Args:
        name: the path of a file, or the name of a grid in `grids/` of the current folder or of the package.

    Raises:
        InputError: there is no grid of that name; the message lists those that exist.
    """
    if is_path(name):
        return Path(name)
    grids = list_yaml_files(search_path("grids"))
    if str(name) not in grids:
        raise unknown_grid(str(name), grids)
    return grids[str(name)]


def unknown_grid(name: str, valid: Collection[str]) -> InputError:
    """Return the error about a name that no grid has."""
    return InputError(
        one_line(f'unknown grid "{name}"; valid: {join_names(valid)}, or a YAML file{nearest(name, valid)}')
    )


def load_grid(path: str | Path, profile: Profile, *, seeds: int | None = None, max_cells: int = MAX_CELLS) -> Grid:
    """Read, check and expand a grid under a profile.

    Args:
        path: the grid's YAML file.
        profile: resolves the grid's names.
        seeds: replaces every block's seeds by 0 .. seeds - 1, unless None.
        max_cells: the largest number of cells, repetitions included.

    Raises:
        InputError: with file, line, key path and the nearest valid name; also for a grid that expands to nothing.
    """
    document = read_file(path)
    try:
        name = check_name(Path(path).stem)
    except ValueError as error:
        raise InputError(one_line(f"{path}: a grid has the name of its file; {error}")) from None
    return expand(document, name, profile, seeds=seeds, max_cells=max_cells)


def expand(
    document: Document, name: str, profile: Profile, *, seeds: int | None = None, max_cells: int = MAX_CELLS
) -> Grid:
    """Expand a grid that has been read; see `load_grid`."""
    if seeds is not None and not 1 <= seeds <= MAX_SEEDS:
        bound = "at least 1" if seeds < 1 else f"at most {MAX_SEEDS}"
        raise InputError(f"--seeds: must be {bound}, not {seeds}")
    file = document.parse(GridFile)
    blocks = GridBlocks(document, file, profile, seeds)
    check_blocks(blocks)
    size = count_entries(blocks)
    if size > max_cells:
        raise document.error(
            ("cells",), f"expands to {size} cells, more than the limit of {max_cells} (--max-cells raises it)"
        )
    entries = _exclude(document, file, list(expand_blocks(blocks)), seeds)
    layout = file.table or default_layout(_varying_labels(entries))
    losses = {*profile.registry.losses, *(str(entry.labels["loss"]) for entry in entries)}
    layout.check(document, _label_names(entries), losses)
    return Grid(name, document, profile, tuple(entries), layout, seeds)


def matches(labels: Labels, where: Mapping[str, Any]) -> bool:
    """Return whether every label in `where` has that value, or one of those values."""
    return all(k in labels and labels[k] in (v if isinstance(v, list) else [v]) for k, v in where.items())


def _label_names(entries: list[Entry]) -> set[str]:
    return {name for entry in entries for name in entry.labels}


def _exclude(document: Document, file: GridFile, entries: list[Entry], seeds: int | None) -> list[Entry]:
    """Return the entries that no rule of the grid excludes. Raises InputError for a rule that excludes none or all."""
    names = _label_names(entries)
    for number, rule in enumerate(file.exclude):
        path: Path_ = ("exclude", number)
        check_labels(document, path, rule, names)
        kept = [entry for entry in entries if not matches(entry.labels, rule)]
        # With `--seeds`, the grid may not have the seeds that a rule excludes.
        if len(kept) == len(entries) and not (seeds is not None and "seed" in rule):
            raise _excludes_nothing(document, path, rule, entries)
        if not kept:
            raise document.error(path, "excludes everything: the grid expands to no cells")
        entries = kept
    return entries


def _excludes_nothing(document: Document, path: Path_, rule: Mapping[str, Any], entries: list[Entry]) -> InputError:
    for name, values in rule.items():
        present = {entry.labels[name] for entry in entries if name in entry.labels}
        for value in values:
            if value not in present:
                message = f"no cell has {name} {show(value)}; it is: {valid_names(value, map(str, present))}"
                return document.error(document.locate(*path, name, value=value), message)
    return document.error(path, "excludes nothing: no cell is all of this")


def _varying_labels(entries: list[Entry]) -> list[str]:
    """Return the labels that differ between entries, except the seed."""
    names = dict.fromkeys(name for entry in entries for name in entry.labels if name != "seed")
    return [name for name in names if len({str(entry.labels.get(name)) for entry in entries}) > 1] or ["student"]
