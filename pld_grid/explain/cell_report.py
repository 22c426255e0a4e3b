"""Report on one cell: its record, MLflow run, files, history and uses, and the command that trains it."""

from dataclasses import dataclass, replace
from typing import Any

from pld_grid.experiment.cell import Cell, ledger
from pld_grid.experiment.describe import describe_cell
from pld_grid.explain.grid_index import GridIndex, Use
from pld_grid.report.report_notes import read_field
from pld_grid.store import EpochRecord, Note, Store, claims
from pld_grid.store.records import CellRecord
from pld_grid.track.tracking_uri import ui_address
from pld_grid.util.redact import public_uri


@dataclass(frozen=True)
class Choice:
    """A cell's value of a field that the paper leaves open; the cell may lack other such fields."""

    field: str
    value: Any
    question: str


@dataclass(frozen=True)
class CellReport:
    """All that is known about one cell.

    Attributes:
        state: The record's state, or `not run` if there is no record.
        record: The cell's numbers with all recorded epochs; empty if there is none.
        run_link: The page of the cell's MLflow run; empty if there is no run.
        tracking_uri: MLflow's, without secrets.
        files: The paths in the store that exist.
        history: What happened to the cell, the oldest first.
        earlier: The folders of archived results, from before the cell was trained again.
        rerun: The command that trains just this cell; empty if no grid of the profile needs it.
    """

    cell: Cell
    state: str
    record: CellRecord
    run_link: str
    tracking_uri: str
    files: tuple[str, ...]
    history: tuple[Note, ...]
    earlier: tuple[str, ...]
    uses: tuple[Use, ...]
    ledger: tuple[Choice, ...]
    rerun: str

    @property
    def title(self) -> str:
        """The cell in words."""
        return describe_cell(self.cell)

    @property
    def last_epoch(self) -> EpochRecord | None:
        """The last recorded epoch."""
        return self.record.epochs[-1] if self.record.epochs else None


def report_cell(
    index: GridIndex, cell: Cell, record: CellRecord | None, preferred_grid: str | None = None
) -> CellReport:
    """Return the report on a cell.

    Args:
        index: The grids, and the store.
        cell: The cell.
        record: Its record as a table shows it.
        preferred_grid: The grid to name in the command if several need the cell.
    """
    store, cell_id = index.store, cell.cell_id
    uri = public_uri(index.workspace.tracking_uri)
    known = record or CellRecord(cell_id, "unfinished")
    if not known.epochs and (stored := store.record(cell_id)) is not None:
        # A table's record has the epochs of cells with a receipt only.
        known = replace(known, epochs=stored.epochs)
    # MLflow also finds a run without its experiment.
    experiment = f"experiments/{known.experiment_id}/" if known.experiment_id else ""
    return CellReport(
        cell=cell,
        state=known.state if record is not None else "not run",
        record=known,
        run_link=f"{ui_address(uri)}/#/{experiment}runs/{known.run_id}" if known.run_id else "",
        tracking_uri=uri,
        files=tuple(_list_files(store, cell_id)),
        history=tuple(_read_history(store, cell_id)),
        earlier=tuple(_join(store, name) for name in sorted(store.names()) if name.startswith(f"{cell_id}.")),
        uses=tuple(index.find_uses(cell)),
        ledger=tuple(Choice(e.field, value, e.question) for e in ledger() for value in read_field(cell, e.field)),
        rerun=index.format_command(cell, again=known.provenance is not None, preferred=preferred_grid),
    )


def _read_history(store: Store, cell_id: str) -> list[Note]:
    """Return what happened to a cell, the oldest first."""
    log = (
        Note(time=entry.time, text=f"{entry.kind} by run {entry.run[:8] or entry.lease} on {entry.host}")
        for entry in claims.read_log(store, cell_id)
    )
    return sorted([*log, *store.history(cell_id)], key=lambda note: note.time)


def _list_files(store: Store, cell_id: str) -> list[str]:
    """Return the paths of a cell's files, except its claims and history, in the order of the names."""
    folders = ("checkpoints", "damaged")
    names = [name for name in store.names(cell_id) if name not in (*folders, "claims", "history")]
    names += [f"{folder}/{name}" for folder in folders for name in store.names(cell_id, folder)]
    return [_join(store, cell_id, name) for name in sorted(names)]


def _join(store: Store, *parts: str) -> str:
    """Return a path in the store as its user writes it."""
    return "/".join((store.uri.rstrip("/"), *parts))
