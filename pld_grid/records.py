"""What a table needs to know about a cell, the same whether it comes from the store or from MLflow."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from pld_grid.spec import Cell
from pld_grid.store import EpochRecord, Progress, Provenance, Store
from pld_grid.store.content import Epoch, Metrics, Text, Whole

State = Literal["finished", "diverged", "failed", "lost", "cancelled", "unfinished", "queued", "stale"]


@dataclass(frozen=True)
class Record:
    """One cell's state and numbers.

    `queued` cells wait for a run that is going on; `stale` ones have a result under an earlier spec version only.
    `metrics` are the last epoch's (accuracies in percent, divergences in nats); they are results only if `state` is
    `finished`. `epoch` is the last one recorded, `parameters` the model's count, `run_id` and `experiment_id` MLflow's
    (or empty). All `epochs`, and where the cell was trained, are known once it has a receipt.
    """

    cell_id: Text
    state: State
    reason: Text
    epoch: Epoch
    metrics: Metrics
    parameters: Whole | None
    commit: Text
    run_id: Text
    experiment_id: Text = ""
    epochs: tuple[EpochRecord, ...] = ()
    provenance: Provenance | None = None


Records = Mapping[str, Record]


def record_of(progress: Progress, run_id: str, experiment_id: str = "") -> Record:
    """The record of what the store knows about a cell."""
    receipt = progress.receipt
    return Record(
        cell_id=progress.cell_id,
        state=progress.state,
        reason=progress.reason,
        epoch=progress.epochs[-1].epoch if progress.epochs else 0,
        metrics=progress.metrics,
        parameters=progress.parameters,
        commit=receipt.provenance.commit if receipt else "",
        run_id=run_id,
        experiment_id=experiment_id,
        epochs=receipt.epochs if receipt else (),
        provenance=receipt.provenance if receipt else None,
    )


def without_progress(cell_id: str, state: State, reason: str = "", run: tuple[str, str] = ("", "")) -> Record:
    """The record of a cell that has no epoch yet; `run` is as `run_in` gives it."""
    return Record(
        cell_id=cell_id, state=state, reason=reason, epoch=0, metrics={}, parameters=None, commit="", run_id=run[0],
        experiment_id=run[1],
    )  # fmt: skip


def run_in(store: Store, cell_id: str, mirrored_in: str | None) -> tuple[str, str]:
    """Ids of a cell's run and its experiment in the MLflow at an address (None: in any); empty if there is none."""
    mirror = store.mirror(cell_id)
    if mirror is None or mirrored_in not in (None, mirror.tracking_uri):
        return "", ""
    return mirror.run_id, mirror.experiment_id


def read_record(store: Store, cell_id: str, mirrored_in: str | None = None) -> Record | None:
    """The record of a cell, or None if the store knows nothing of it; see `from_store`."""
    progress = store.progress(cell_id)
    return record_of(progress, *run_in(store, cell_id, mirrored_in)) if progress is not None else None


def from_store(store: Store, cell_ids: Iterable[str], mirrored_in: str | None = None) -> dict[str, Record]:
    """Records of the cells that the store knows.

    `mirrored_in` is a tracker's address: runs in another MLflow then do not count. None takes whichever there is.
    """
    present = store.cell_ids()
    wanted = [cell_id for cell_id in dict.fromkeys(cell_ids) if cell_id in present]
    found = {cell_id: read_record(store, cell_id, mirrored_in) for cell_id in wanted}
    return {cell_id: record for cell_id, record in found.items() if record is not None}


# -- results of earlier spec versions --------------------------------------------------------------------------------


def earlier_ids(cell: Cell) -> dict[str, int]:
    """The ids that this cell had under earlier spec versions, had nothing else of it (or its teacher) changed."""

    def under(version: int, content: dict[str, Any]) -> dict[str, Any]:
        teacher = content["teacher"]
        return content | {"spec_version": version, "teacher": under(version, teacher) if teacher else None}

    content = cell.model_dump(mode="json")
    # As `Cell.cell_id`, which cannot be asked: what is no cell today may have been one then.
    texts = {
        version: json.dumps(under(version, content), sort_keys=True, separators=(",", ":"))
        for version in range(cell.spec_version)
    }
    return {hashlib.sha256(text.encode()).hexdigest()[:16]: version for version, text in texts.items()}


def with_stale(
    records: Records, cells: Iterable[Cell], finished: Callable[[Collection[str]], Collection[str]]
) -> dict[str, Record]:
    """The records, and `stale` ones of those cells without any that are finished under an earlier spec version.

    `finished` is asked once which of many ids are finished; not at all if every cell has a record.
    """
    missing = {cell.cell_id: cell for cell in cells if cell.cell_id not in records}
    earlier = {cell_id: earlier_ids(cell) for cell_id, cell in missing.items()}
    known = set(finished({old for ids in earlier.values() for old in ids})) if missing else set()
    found = dict(records)
    for cell_id, cell in missing.items():
        version, old = max(((earlier[cell_id][old], old) for old in earlier[cell_id] if old in known), default=(-1, ""))
        if old:
            reason = f"finished under spec version {version} as {old}; this version is {cell.spec_version}"
            found[cell_id] = without_progress(cell_id, "stale", reason)
    return found


def finished_in(store: Store, cell_ids: Collection[str]) -> set[str]:
    """Which ids have a finished receipt, of whatever spec version: it need not fit the present models."""
    receipts = {i: store.read_model(_Stated, i, "receipt.json") for i in store.cell_ids().intersection(cell_ids)}
    return {i for i, receipt in receipts.items() if receipt is not None and receipt.state == "finished"}


class _Stated(BaseModel):
    """What receipts of all spec versions have in common."""

    state: str
