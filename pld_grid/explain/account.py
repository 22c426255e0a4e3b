"""All that is known about one cell: results, run, files, where it was made, who shares it, how to make it again."""

from dataclasses import dataclass
from typing import Any

from pld_grid import track
from pld_grid.explain.library import Library, Use
from pld_grid.progress import describe
from pld_grid.records import Record
from pld_grid.spec import Cell, ledger
from pld_grid.store import EpochRecord, Note, Provenance, Store, claims


@dataclass(frozen=True)
class MlflowRun:
    """A cell's run, and its experiment's id if that is known; no secrets in the `tracking_uri`."""

    run_id: str
    experiment_id: str
    tracking_uri: str

    @property
    def served(self) -> bool:
        """Whether a server shows it, or else only `pld-grid ui`."""
        return track.ui_command(self.tracking_uri) is None

    @property
    def link(self) -> str:
        """The run's page; MLflow finds a run's experiment by itself where it is not known."""
        experiment = f"experiments/{self.experiment_id}/" if self.experiment_id else ""
        return f"{track.ui_address(self.tracking_uri)}/#/{experiment}runs/{self.run_id}"


@dataclass(frozen=True)
class Choice:
    """What a cell takes where the paper leaves something open."""

    field: str
    value: Any
    question: str


@dataclass(frozen=True)
class Account:
    """One cell.

    `epochs` are all that are recorded, their metrics in percent and nats; `files` the paths in the store that exist;
    `history` what happened to it, from who trained it to what could not be used; `earlier` the folders of results that
    were set aside when the cell was trained again; `rerun` the command that trains just this cell, or empty if no grid
    of the profile needs it.
    """

    cell: Cell
    title: str
    state: str
    reason: str
    parameters: int | None
    epochs: tuple[EpochRecord, ...]
    provenance: Provenance | None
    run: MlflowRun | None
    files: tuple[str, ...]
    history: tuple[Note, ...]
    earlier: tuple[str, ...]
    uses: tuple[Use, ...]
    ledger: tuple[Choice, ...]
    rerun: str

    @property
    def finished(self) -> bool:
        """Whether the numbers are results."""
        return self.state == "finished"

    @property
    def last(self) -> EpochRecord | None:
        """The last epoch recorded."""
        return self.epochs[-1] if self.epochs else None


def account_of(library: Library, cell: Cell, record: Record | None, first: str | None = None) -> Account:
    """The account of a cell; `first` names the grid that it was asked for by."""
    progress = library.store.progress(cell.cell_id)
    receipt = progress.receipt if progress is not None else None
    uri = track.public_uri(library.workspace.tracking_uri)
    return Account(
        cell=cell,
        title=describe(cell),
        state=str(record.state) if record is not None else "not run",
        reason=record.reason if record is not None else "",
        parameters=progress.parameters if progress is not None else None,
        epochs=progress.epochs if progress is not None else (),
        provenance=receipt.provenance if receipt is not None else None,
        run=MlflowRun(record.run_id, record.experiment_id, uri) if record is not None and record.run_id else None,
        files=tuple(_files(library.store, cell.cell_id)),
        history=tuple(history(library.store, cell.cell_id)),
        earlier=tuple(_path(library.store, name) for name in library.set_aside(cell)),
        uses=tuple(library.uses(cell)),
        ledger=tuple(choices(cell)),
        rerun=library.command(cell, again=receipt is not None, first=first),
    )


def choices(cell: Cell) -> list[Choice]:
    """The entries of the ambiguity ledger that the cell has a field for, with its values."""
    found = []
    for entry in ledger():
        value: Any = cell.model_dump(mode="json", exclude={"teacher"})
        *parts, last = entry.field.split(".")
        for part in parts:
            value = value[part] if value is not None else None
        if value is not None:
            found.append(Choice(entry.field, value[last], entry.question))
    return found


def history(store: Store, cell_id: str) -> list[Note]:
    """What happened to a cell, the oldest first."""
    who = (
        Note(time=entry.time, text=f"{entry.kind} by run {entry.run[:8] or entry.lease} on {entry.host}")
        for entry in claims.entries(store, cell_id)
    )
    return sorted([*who, *store.history(cell_id)], key=lambda note: note.time)


def _files(store: Store, cell_id: str) -> list[str]:
    """What the store has of a cell, in the order of the names."""
    folders = ("checkpoints", "damaged")
    names = [name for name in store.names(cell_id) if name not in (*folders, "claims", "history")]
    names += [f"{folder}/{name}" for folder in folders for name in store.names(cell_id, folder)]
    return [_path(store, cell_id, name) for name in sorted(names)]


def _path(store: Store, *parts: str) -> str:
    """A path in the store as its user writes it."""
    return "/".join((store.uri.rstrip("/"), *parts))
