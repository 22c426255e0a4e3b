"""What MLflow shows of a cell: run name, parameters and tags, and the record that the tags give back."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import FiniteFloat, TypeAdapter

from pld_grid.records import Record
from pld_grid.spec import Cell, canonical_json, digest
from pld_grid.store import EpochRecord, Progress, Receipt, sha256

PREFIX = "pld_grid."
CELL_ID = f"{PREFIX}cell_id"
GRIDS = f"{PREFIX}grids"
STATE = f"{PREFIX}state"
RECEIPT = f"{PREFIX}receipt_sha256"
LOGGED = f"{PREFIX}logged_epoch"
RECEIPT_FILE = "receipt.json"
LONGEST = 5000  # characters that every MLflow backend takes in a tag
SUBMISSION_ID = f"{PREFIX}submission_id"
PROFILE = f"{PREFIX}profile"
PARENT = "mlflow.parentRunId"

STATUS: Mapping[str, str] = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "lost": "FAILED",
    "cancelled": "KILLED",
    "unfinished": "RUNNING",
    "running": "RUNNING",
}

# libyaml's, where PyYAML was built with it: the other takes a fifth of the time that mirroring a cell does.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_RECORD = TypeAdapter(Record)
_METRICS = TypeAdapter(dict[str, FiniteFloat])

# MLflow's table is read by people: "loss" rather than "loss.name". The first prefix that fits is replaced.
_SHORTER = (
    ("dataset.name", "dataset"),
    ("student.architecture", "student"),
    ("student.options.", "student."),
    ("loss.name", "loss"),
    ("loss.hyperparameters.", "loss."),
    ("loss.standardization", "standardization"),
    ("optimizer.name", "optimizer"),
    ("optimizer.learning_rate", "learning_rate"),
    ("optimizer.options.", "optimizer."),
    ("recipe.", ""),
)


def title(cell: Cell) -> str:
    """A run name that tells cells of one grid apart: `student <- teacher · pld tau=1 · lamb · seed 0`."""
    models = cell.student.architecture
    if cell.is_measurement and cell.student.pretrained is not None:
        how = f"{cell.dataset.image_size} pixels, crop {cell.recipe.evaluation_crop:g}"
        return f"{models}.{cell.student.pretrained.tag} · published weights · {how}"[:250]
    if cell.teacher is not None:
        models += f" <- {cell.teacher.student.architecture}"
    loss = [cell.loss.name, *(f"{name}={_brief(value)}" for name, value in cell.loss.hyperparameters.items())]
    if cell.loss.standardization != "none":
        loss.append(f"standardization={cell.loss.standardization}")
    return " · ".join((models, " ".join(loss), cell.optimizer.name, f"seed {cell.seed}"))[:250]


def params(cell: Cell) -> dict[str, str]:
    """The whole cell, flattened; of its teacher only what names it, as the teacher has a run of its own."""
    flat = {_shorter(key): value for key, value in _flatten(cell.model_dump(mode="json", exclude={"teacher"}), "")}
    teacher = cell.teacher
    flat["teacher"] = teacher.student.architecture if teacher else "none"
    if teacher is not None:
        flat["teacher.cell_id"] = teacher.cell_id
        flat["teacher.epochs"] = str(teacher.epochs)
        if teacher.student.pretrained is not None:
            flat["teacher.pretrained.tag"] = teacher.student.pretrained.tag
    return flat


def tags(cell: Cell, progress: Progress | None) -> dict[str, str]:
    """Everything that a record holds, in one batch of tags, so that MLflow never shows half of a change.

    The last epoch's metrics are repeated here, because a metric's latest value in MLflow need not belong to the
    store's last epoch: after a damaged checkpoint, that epoch lies further back.
    """
    found = {CELL_ID: cell.cell_id, f"{PREFIX}spec_version": str(cell.spec_version)}
    if progress is not None:
        receipt = progress.receipt
        found |= {
            STATE: progress.state,
            f"{PREFIX}reason": progress.reason[:LONGEST],
            f"{PREFIX}epoch": str(progress.epochs[-1].epoch if progress.epochs else 0),
            f"{PREFIX}metrics": json.dumps(progress.metrics),
            f"{PREFIX}parameters": "" if progress.parameters is None else str(progress.parameters),
            f"{PREFIX}commit": receipt.provenance.commit if receipt else "",
            RECEIPT: digest(receipt) if receipt else "",
        }
    return found


# In place of what a run says of a result that is no longer its cell's, as long as there is nothing of another.
NO_RESULT: Mapping[str, str] = {STATE: "", RECEIPT: "", LOGGED: "-1"}


def record(run_id: str, experiment_id: str, found: Mapping[str, str]) -> Record | None:
    """The record that a run's tags stand for; None for another run, or a cell without any progress yet.

    Anybody who reaches MLflow may have written the tags: a run whose tags are no record is another run.
    What only the receipt knows is not in it: see `with_receipt`.
    """
    if CELL_ID not in found or not found.get(STATE):
        return None
    said = {name: found.get(f"{PREFIX}{name}") for name in ("cell_id", "state", "reason", "epoch", "commit")}
    try:
        # JSON can spell half a character, which nothing can be written with.
        "".join((run_id, experiment_id, *found.values())).encode()
        metrics = _METRICS.validate_json(found[f"{PREFIX}metrics"], strict=True)
        parameters = found[f"{PREFIX}parameters"] or None
        return _RECORD.validate_python(
            said | {"metrics": metrics, "parameters": parameters, "run_id": run_id, "experiment_id": experiment_id}
        )
    except (ValueError, LookupError):
        return None


def with_receipt(known: Record, artifact: bytes | None, digest: str) -> Record | None:
    """The record with what else stands in its run's copy of the receipt; None if that is not the one of that digest."""
    try:
        content = json.loads(artifact or b"")
        if sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()) != digest:
            return None
        return _RECORD.validate_python(
            {**vars(known), "epochs": content["epochs"], "provenance": content["provenance"]}
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def artifacts(receipt: Receipt) -> dict[str, bytes]:
    """The small files of a finished cell's run."""
    text = yaml.dump(receipt.cell.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    pretty = json.dumps(json.loads(canonical_json(receipt)), indent=2)
    return {"cell.yaml": text.encode(), RECEIPT_FILE: pretty.encode() + b"\n"}


def logged(had: Mapping[str, str]) -> int:
    """The last epoch whose metrics a run with these tags has; -1 if they tell of none."""
    try:
        return int(had[LOGGED])
    except (ValueError, LookupError):
        return -1


def unlogged(progress: Progress | None, had: Mapping[str, str]) -> list[EpochRecord]:
    """Epochs that a run with these tags lacks."""
    return [epoch for epoch in progress.epochs if epoch.epoch > logged(had)] if progress else []


def started(progress: Progress | None) -> float:
    """When a cell began, in Unix seconds; now, if nothing says so."""
    if progress is not None and progress.receipt is not None:
        return progress.receipt.provenance.started
    return progress.epochs[0].time if progress and progress.epochs else time.time()


def ended(progress: Progress | None) -> float | None:
    """When a cell was last heard of, in Unix seconds."""
    if progress is not None and progress.receipt is not None:
        return progress.receipt.provenance.ended
    return progress.epochs[-1].time if progress and progress.epochs else None


def _flatten(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flatten(part, f"{key}.{name}" if key else name)
    elif value is None:
        yield key, "none"
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def _shorter(key: str) -> str:
    for long, short in _SHORTER:
        if key.startswith(long):
            return short + key.removeprefix(long)
    return key


def _brief(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
