"""Records that no training made, and the ten grids, for tests of reports."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pld_grid.grid import Grid, expand, load_grid
from pld_grid.profile import Profile
from pld_grid.reading import read_text
from pld_grid.records import Record
from pld_grid.spec import Cell

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "reports" / "paper"
TABLES = [f"table{number:02}" for number in range(1, 11)]
METRICS = ("top1", "top5", "kl_teacher_student")


def make_record(cell: Cell, state: Any = "finished", **changes: Any) -> Record:
    """A record whose numbers follow from the cell's id: all different, none with a short decimal form."""
    noise = int(cell.cell_id[:8], 16) / 2**32
    fields: dict[str, Any] = {
        "cell_id": cell.cell_id,
        "state": state,
        "reason": "",
        "epoch": cell.epochs,
        "metrics": {"top1": 60 + 20 * noise, "top5": 80 + 20 * noise, "kl_teacher_student": noise},
        "parameters": 1_000_000 + int(noise * 1e6),
        "commit": "0123abc",
        "run_id": f"run-{cell.cell_id[:6]}",
    }
    return Record(**(fields | changes))


def records_of(grids: Iterable[Grid]) -> dict[str, Record]:
    """Finished records of everything that the grids need."""
    return {cell.cell_id: make_record(cell) for grid in grids for cell in grid.cells()}


def table_grid(name: str, profile: Profile, seeds: int | None = None) -> Grid:
    """One of the ten grids."""
    return load_grid(ROOT / "grids" / f"{name}.yaml", profile, seeds=seeds)


def all_grids(profile: Profile, seeds: int | None = None) -> list[Grid]:
    """The ten grids."""
    return [table_grid(name, profile, seeds) for name in TABLES]


def own_grid(text: str, profile: Profile, name: str = "own") -> Grid:
    """A grid written in a test."""
    return expand(read_text(text, f"{name}.yaml"), name, profile)
