"""Cells, receipts and stores for tests: small, valid, and different from each other only where asked."""

from collections.abc import Iterable
from typing import Any

from pld_grid.experiment.cell import Cell, Dataset, Loss, Model, Optimizer, Pretrained, Recipe
from pld_grid.store import EpochRecord, Manifest, Provenance, Receipt, Status, Store, sha256
from pld_grid.track.parent_runs import ParentRun

METRICS = ("loss", "top1", "top5", "kl_teacher_student", "kl_student_teacher", "val_loss", "learning_rate", "seconds")
STARTED = 1_750_000_000.0


def make_cell(**changes: Any) -> Cell:
    """A student without a teacher, of ten classes and three epochs; any field of `Cell` may be given."""
    fields: dict[str, Any] = {
        "dataset": Dataset(name="digits", num_classes=10, channels=1, image_size=16),
        "recipe": Recipe(batch_size=64, micro_batch_size=32, warmup_epochs=1, mean=(0.3,), std=(0.4,)),
        "student": Model(architecture="mobilenetv4_conv_small"),
        "loss": Loss(name="ce"),
        "optimizer": Optimizer(name="lamb", learning_rate=0.005, weight_decay=0.02),
        "epochs": 3,
    }
    return Cell(**(fields | changes))


def make_distilled(**changes: Any) -> Cell:
    """A student of a ResNet that was trained for two epochs, under PLD."""
    teacher = make_cell(student=Model(architecture="resnet152"), epochs=2)
    loss = Loss(name="pld", hyperparameters={"tau": 1.0, "weights": "teacher"}, standardization="teacher")
    return make_cell(**({"teacher": teacher, "loss": loss} | changes))


def make_measured(**changes: Any) -> Cell:
    """Published weights that are only measured."""
    model = Model(architecture="resnet152", pretrained=Pretrained(tag="gluon_in1k"))
    return make_cell(**({"student": model, "epochs": 0} | changes))


def make_epochs(last: int, *, first: int = 1, names: tuple[str, ...] = METRICS) -> tuple[EpochRecord, ...]:
    """Epochs whose numbers have no short decimal form, as real ones do."""
    return tuple(
        EpochRecord(
            epoch=epoch,
            time=STARTED + epoch + 0.123456,
            metrics={name: 100 / (epoch + place + 3) / 7 for place, name in enumerate(names)},
        )
        for epoch in range(first, last + 1)
    )


def make_receipt(cell: Cell, **changes: Any) -> Receipt:
    """The receipt of a finished cell with all its epochs; a measurement has the one epoch 0."""
    epochs = changes.pop("epochs", None) or make_epochs(cell.epochs, first=min(1, cell.epochs))
    fields: dict[str, Any] = {
        "cell": cell,
        "state": "finished",
        "parameters": 2_493_824,
        "metrics": epochs[-1].metrics,
        "epochs": epochs,
        "provenance": Provenance(
            commit="0123abc", versions={"torch": "2.9.0"}, device="cpu", threads=1, started=STARTED, ended=STARTED + 99
        ),
    }
    return Receipt(**(fields | changes))


def begin(store: Store, cell: Cell, epochs: int, *, records: tuple[EpochRecord, ...] | None = None) -> None:
    """Leaves a cell in the store as a trial does after so many epochs."""
    store.write_cell(cell)
    payload = f"state of {cell.cell_id} after {epochs}".encode()
    manifest = Manifest(
        cell_id=cell.cell_id,
        spec_version=cell.spec_version,
        epoch=epochs,
        sha256=sha256(payload),
        parameters=2_493_824,
        started=STARTED,
        epochs=records or make_epochs(epochs),
    )
    store.save_checkpoint(manifest, payload)


def stop(store: Store, cell: Cell, state: str, reason: str = "") -> None:
    """Leaves a cell in the store as one that failed or was cancelled."""
    store.write_cell(cell)
    store.write_status(cell.cell_id, Status.model_validate({"state": state, "reason": reason, "time": STARTED}))


def finish(store: Store, cell: Cell, *, weights: bytes | None = b"weights", **changes: Any) -> Receipt:
    """Leaves a cell in the store as a finished (or, by `changes`, diverged) one."""
    store.write_cell(cell)
    checksum = store.write_weights(cell.cell_id, weights) if weights is not None else None
    receipt = make_receipt(cell, weights_sha256=checksum, **changes)
    store.write_receipt(receipt)
    return receipt


def make_parent_run(cell_ids: Iterable[str], **changes: Any) -> ParentRun:
    """A run of one grid that trains these cells."""
    ids = tuple(cell_ids)
    fields: dict[str, Any] = {"name": "run", "profile": "digits", "cells": dict.fromkeys(ids, ("g",)), "trained": ids}
    return ParentRun(**(fields | changes))
