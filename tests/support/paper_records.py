"""Synthetic records, and the ten grids, for tests of reports."""

from collections.abc import Iterable
from typing import Any, get_args

from paths import ROOT

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Grid, expand, load_grid
from pld_grid.experiment.profile import Profile
from pld_grid.store.records import CellRecord
from pld_grid.store.schema import State
from pld_grid.util.strict_yaml import read_text

PAPER = ROOT / "reports" / "paper"
TABLES = [f"table{number:02}" for number in range(1, 11)]
METRICS = ("top1", "top5", "kl_teacher_student")


def make_record(cell: Cell, state: Any = "finished", **changes: Any) -> CellRecord:
    """Return a record with numbers derived from the cell's id: all different, none with a short decimal form."""
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
    return CellRecord(**(fields | changes))


def make_records(grids: Iterable[Grid]) -> dict[str, CellRecord]:
    """Return finished records of all cells of the grids."""
    return {cell.cell_id: make_record(cell) for grid in grids for cell in grid.cells()}


def mixed_records(grids: Iterable[Grid], reason: str = "no memory", **finished: Any) -> dict[str, CellRecord]:
    """Return records of which half are finished, with these fields; the others are in every other state, or missing."""
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    others = [*(state for state in get_args(State) if state != "finished"), None]
    records = {}
    for place, cell_id in enumerate(sorted(cells)):
        state = others[place // 2 % len(others)] if place % 2 else "finished"
        if state == "finished":
            records[cell_id] = make_record(cells[cell_id], **finished)
        elif state is not None:
            reasons = reason if state in ("failed", "diverged") else ""
            records[cell_id] = make_record(cells[cell_id], state, epoch=3, reason=reasons)
    return records


def table_grid(name: str, profile: Profile, seeds: int | None = None) -> Grid:
    """Load one of the ten grids."""
    return load_grid(ROOT / "grids" / f"{name}.yaml", profile, seeds=seeds)


def all_grids(profile: Profile, seeds: int | None = None) -> list[Grid]:
    """Load the ten grids."""
    return [table_grid(name, profile, seeds) for name in TABLES]


def own_grid(text: str, profile: Profile, name: str = "own") -> Grid:
    """Expand a grid written in a test."""
    return expand(read_text(text, f"{name}.yaml"), name, profile)
