"""Convert a cell's record to the content of its MLflow run (name, parameters, tags, files), and tags to a record."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import FiniteFloat, TypeAdapter

from pld_grid.experiment.cell import Cell, canonical_json, digest
from pld_grid.experiment.describe import describe_hyperparameters, describe_models
from pld_grid.store import CellRecord, Receipt, sha256

PREFIX = "pld_grid."
CELL_ID = f"{PREFIX}cell_id"
SUBMISSION_ID = f"{PREFIX}submission_id"
SPEC_VERSION_TAG = f"{PREFIX}spec_version"
GRIDS = f"{PREFIX}grids"
PROFILE = f"{PREFIX}profile"
STATE = f"{PREFIX}state"
METRICS = f"{PREFIX}metrics"
RECEIPT = f"{PREFIX}receipt_sha256"
LOGGED = f"{PREFIX}logged_epoch"
PARENT = "mlflow.parentRunId"
RECEIPT_FILE = "receipt.json"
MAX_TAG_CHARACTERS = 5000  # accepted by every backend of MLflow
MAX_NAME_CHARACTERS = 250

STATUS: Mapping[str, str] = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "lost": "FAILED",
    "cancelled": "KILLED",
    "unfinished": "RUNNING",
    "running": "RUNNING",
}
# Replaces the tags of a result that was archived, until there is a record of the next training.
NO_RESULT: Mapping[str, str] = {STATE: "", RECEIPT: "", LOGGED: "-1"}

# libyaml's dumper, if PyYAML was built with it, is several times as fast.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_RECORD = TypeAdapter(CellRecord)
_METRICS = TypeAdapter(dict[str, FiniteFloat])

# Shorter names for MLflow's table of runs. The first prefix that fits is replaced.
_SHORT_PREFIXES = (
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


def make_run_name(cell: Cell) -> str:
    """Return a name that distinguishes the cells of a grid: `student <- teacher · pld tau=1 · lamb · seed 0`."""
    if cell.is_measurement and cell.student.pretrained is not None:
        evaluation = f"{cell.dataset.image_size} pixels, crop {cell.recipe.evaluation_crop:g}"
        name = f"{cell.student.architecture}.{cell.student.pretrained.tag} · published weights · {evaluation}"
    else:
        loss = [cell.loss.name, *describe_hyperparameters(cell.loss)]
        if cell.loss.standardization != "none":
            loss.append(f"standardization={cell.loss.standardization}")
        name = " · ".join((describe_models(cell), " ".join(loss), cell.optimizer.name, f"seed {cell.seed}"))
    return name[:MAX_NAME_CHARACTERS]


def make_params(cell: Cell) -> dict[str, str]:
    """Return all fields of a cell, flattened; of its teacher, which has a run of its own, only what identifies it."""
    params = dict(_flatten(cell.model_dump(mode="json", exclude={"teacher"}), ""))
    teacher = cell.teacher
    params["teacher"] = teacher.student.architecture if teacher else "none"
    if teacher is not None:
        params |= {"teacher.cell_id": teacher.cell_id, "teacher.epochs": str(teacher.epochs)}
        if teacher.student.pretrained is not None:
            params["teacher.pretrained.tag"] = teacher.student.pretrained.tag
    return params


def make_tags(cell: Cell, record: CellRecord | None) -> dict[str, str]:
    """Return a record as tags: one batch of tags, so that MLflow never shows half of a change.

    The last epoch's metrics are repeated here, because MLflow's latest value of a metric may be from a later epoch than
    the record's last one: a damaged checkpoint sets a cell back.
    """
    tags = {CELL_ID: cell.cell_id, SPEC_VERSION_TAG: str(cell.spec_version)}
    if record is not None:
        tags |= {
            STATE: record.state,
            f"{PREFIX}reason": record.reason[:MAX_TAG_CHARACTERS],
            f"{PREFIX}epoch": str(record.epoch),
            METRICS: json.dumps(record.metrics),
            f"{PREFIX}parameters": "" if record.parameters is None else str(record.parameters),
            f"{PREFIX}commit": record.commit,
            RECEIPT: digest(record.receipt) if record.receipt else "",
        }
    return tags


def read_record(run_id: str, experiment_id: str, tags: Mapping[str, str]) -> CellRecord | None:
    """Return the record in a run's tags, without what only the receipt has: see `add_receipt`.

    None for a run of another program, for a cell without progress, and for invalid tags, as anyone who reaches MLflow
    may write them.
    """
    if CELL_ID not in tags or not tags.get(STATE):
        return None
    fields: dict[str, Any] = {
        name: tags.get(f"{PREFIX}{name}") for name in ("cell_id", "state", "reason", "epoch", "commit")
    }
    try:
        # JSON can contain half of a surrogate pair, which no file can.
        "".join((run_id, experiment_id, *tags.values())).encode()
        fields["metrics"] = read_metrics(tags)
        fields["parameters"] = tags[f"{PREFIX}parameters"] or None
        return _RECORD.validate_python(fields | {"run_id": run_id, "experiment_id": experiment_id})
    except (ValueError, LookupError):
        return None


def read_metrics(tags: Mapping[str, str]) -> dict[str, float]:
    """Return the metrics in a run's tags. Raises LookupError or ValueError."""
    return _METRICS.validate_json(tags[METRICS], strict=True)


def add_receipt(record: CellRecord, artifact: bytes | None, digest: str) -> CellRecord | None:
    """Return a record with the epochs and provenance of a run's `receipt.json`; None if that has another digest."""
    try:
        receipt = json.loads(artifact or b"")
        if sha256(json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode()) != digest:
            return None
        return _RECORD.validate_python(
            {**vars(record), "epochs": receipt["epochs"], "provenance": receipt["provenance"]}
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def make_artifacts(receipt: Receipt) -> dict[str, bytes]:
    """Return the small files of a finished cell's run, by name."""
    text = yaml.dump(receipt.cell.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    pretty = json.dumps(json.loads(canonical_json(receipt)), indent=2)
    return {"cell.yaml": text.encode(), RECEIPT_FILE: pretty.encode() + b"\n"}


def last_logged_epoch(tags: Mapping[str, str]) -> int:
    """Return the last epoch whose metrics a run has according to its tags; -1 if there is none."""
    try:
        return int(tags[LOGGED])
    except (ValueError, LookupError):
        return -1


def training_time(record: CellRecord | None) -> tuple[float, float]:
    """Return when a cell's training began and last made progress, in Unix seconds; now, if the record does not say."""
    if record is not None and record.provenance is not None:
        return record.provenance.started, record.provenance.ended
    times = [epoch.time for epoch in record.epochs] if record else []
    return (times[0], times[-1]) if times else (time.time(), time.time())


def _flatten(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flatten(part, f"{key}.{name}" if key else name)
        return
    for long, short in _SHORT_PREFIXES:
        if key.startswith(long):
            key = short + key.removeprefix(long)
            break
    yield key, "none" if value is None else value if isinstance(value, str) else json.dumps(value)
