"""Load profiles and grids, select some of their cells, and change their machine settings."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pld_grid.experiment.grid import MAX_CELLS, Grid, find_grid
from pld_grid.experiment.grid import load_grid as _load_grid
from pld_grid.experiment.machine import Machines, MachineSettings
from pld_grid.experiment.profile import Profile, find_profile
from pld_grid.experiment.profile import load_profile as _load_profile
from pld_grid.report.csv_table import list_csv_headers
from pld_grid.report.figures import build_all_plots
from pld_grid.report.records_file import load_records
from pld_grid.report.table_builder import build_table
from pld_grid.service.report_writer import find_paper_folder
from pld_grid.util.errors import InputError
from pld_grid.util.shipped_files import is_path, list_yaml_files, search_path
from pld_grid.util.text import nearest
from pld_grid.util.validation import explain_error


def load_profile(name: str, near: Path | None = None) -> Profile:
    """Return the profile with this name or path. Raises InputError."""
    from pld_grid.train import discovery

    return _load_profile(find_profile(name, near), discovery.load())


def load_grids(
    paths: Sequence[str | Path], profile: str = "digits", *, seeds: int | None = None, max_cells: int | None = None
) -> list[Grid]:
    """Read, check and expand grids under one profile.

    Args:
        paths: grid YAML files, or names of grids in `grids/` of the current folder or of the package.
        profile: name or path of the profile.
        seeds: number of replicates per cell, instead of the grid's own seeds.
        max_cells: limit on the cells of one grid.

    Raises:
        InputError: a grid is wrong. The message names file, line, key and the nearest valid name.
    """
    if not paths:
        raise InputError("no grid was given")
    files = [find_grid(path) for path in paths]
    # A profile beside a grid that is given as a path comes before others of that name.
    loaded = load_profile(profile, files[0].parent if is_path(paths[0]) else None)
    grids: list[Grid] = []
    for path in files:
        grid = _load_grid(path, loaded, seeds=seeds, max_cells=max_cells or MAX_CELLS)
        if any(grid.name == other.name for other in grids):
            raise InputError(f"{path}: two grids are called {grid.name}")
        grids.append(grid)
    # Refuse a table, file or figure that cannot be built before training its cells.
    tables = [build_table(grid, {}, find_paper_folder()) for grid in grids]
    for table in tables:
        list_csv_headers(table)
    build_all_plots(grids, tables)
    return grids


def load_grid(path: str | Path, profile: str = "digits", *, seeds: int | None = None) -> Grid:
    """Load one grid; see `load_grids`."""
    return load_grids([path], profile, seeds=seeds)[0]


def select_cells(grids: Sequence[Grid], cell_ids: Collection[str]) -> list[Grid]:
    """Narrow grids to some cells and their teachers, dropping grids that contain none of them.

    Raises InputError for an id that is in none of the grids.
    """
    known = {cell.cell_id for grid in grids for cell in grid.cells()}
    for cell_id in cell_ids:
        if cell_id not in known:
            raise InputError(f'--only: no cell of these grids is "{cell_id}"{nearest(cell_id, known)}')
    return [selected for grid in grids if (selected := grid.select(cell_ids)).entries]


def resolve_machines(grids: Sequence[Grid], overrides: Mapping[str, Any]) -> Machines:
    """Return the profile's machine settings with those overrides that are not None. Raises InputError."""
    changes = {name: value for name, value in overrides.items() if value is not None}
    try:
        return grids[0].profile.machines.map(lambda each: MachineSettings.model_validate(each.model_dump() | changes))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{str(first['loc'][0]).replace('_', '-')}: {explain_error(first)}") from None


def load_report_grids(
    folder: str | Path,
    paths: Sequence[str | Path] = (),
    profile: str | None = None,
    *,
    seeds: int | None = None,
    max_cells: int | None = None,
) -> list[Grid]:
    """Load the grids that a report was made of, with the profile and seeds recorded there.

    Args:
        folder: the report's folder; its records name grids, profile and seeds.
        paths: grids to load instead of those that the records name. Named grids are looked up in `grids/` of the
            current folder, then of the package.
        profile, seeds: used instead of the recorded ones.
        max_cells: see `load_grids`.

    Raises:
        InputError: the folder has no records, or there is no such grid or profile.
    """
    origin, _ = load_records(folder)
    if paths_in_names := [name for name in origin.grids if Path(name).name != name]:
        raise InputError(
            f"{folder}: its records name a grid {paths_in_names[0]!r}, which must be a plain file name without .yaml"
        )
    if profile is None and Path(origin.profile).suffix in (".yaml", ".yml"):
        raise InputError(f"{folder}: its records name a profile {origin.profile!r}, which must be a name without .yaml")
    known = list_yaml_files(search_path("grids"))
    recorded = [known.get(name, Path("grids", f"{name}.yaml")) for name in origin.grids]
    seeds = origin.seeds if seeds is None else seeds
    return load_grids(list(paths) or recorded, profile or origin.profile, seeds=seeds, max_cells=max_cells)
