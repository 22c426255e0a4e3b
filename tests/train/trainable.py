"""Cells that train in seconds on one core: real digits at 8 pixels, small timm models."""

from pathlib import Path
from typing import Any

import torch

from pld_grid.events import Event
from pld_grid.spec import Augmentation, Cell, Dataset, Loss, Model, Optimizer, Recipe
from pld_grid.store import Receipt, Store
from pld_grid.train import losses
from pld_grid.train.cohort import train_cohort
from pld_grid.train.models import build_model, dump_weights
from pld_grid.train.surroundings import Surroundings

VIT = Model(
    architecture="test_vit",
    options={"img_size": 8, "patch_size": 4, "depth": 2, "drop_rate": 0.1, "drop_path_rate": 0.2},
)
RESNET = Model(architecture="test_resnet")


def trainable(loss: str = "ce", **changes: Any) -> Cell:
    """A student for real training; `loss` with its default hyperparameters."""
    hyperparameters = dict(losses.build(loss, **changes.pop("hyperparameters", {})).settings())
    standardization = changes.pop("standardization", "none")
    fields: dict[str, Any] = {
        "dataset": Dataset(name="digits", num_classes=10, channels=1, image_size=8),
        "recipe": Recipe(
            batch_size=360,
            micro_batch_size=180,
            warmup_epochs=0.5,
            augmentation=Augmentation(crop="padded", padding=1),
            mean=(0.3,),
            std=(0.38,),
        ),
        "student": VIT,
        "loss": Loss(name=loss, hyperparameters=hyperparameters, standardization=standardization),
        "optimizer": Optimizer(name="adamw", learning_rate=2e-3, weight_decay=0.02),
        "epochs": 3,
    }
    return Cell(**(fields | changes))


def teacher() -> Cell:
    """A teacher to be."""
    return trainable(student=RESNET, epochs=1)


def distilled(loss: str = "kd", **changes: Any) -> Cell:
    """A student of `teacher()`."""
    return trainable(loss, **({"teacher": teacher()} | changes))


def give_weights(store: Store, cell: Cell) -> None:
    """Finishes a teacher with its initial weights: enough for whatever does not ask how good it is."""
    from cells import finish

    finish(store, cell, weights=dump_weights(build_model(cell.student, cell.dataset, cell.seed)))


def train(folder: Path, *cells: Cell, listener: Any = lambda _: None, **changes: Any) -> dict[str, Receipt | None]:
    """Trains cells as one cohort on one thread; receipts by cell id."""
    torch.set_num_threads(1)
    store = Store(folder)
    for cell in cells:
        if cell.teacher is not None and store.receipt(cell.teacher) is None:
            give_weights(store, cell.teacher)
    train_cohort(list(cells), Surroundings(store=str(folder), **changes), listener)
    return {cell.cell_id: store.receipt(cell) for cell in cells}


def numbers(receipt: Receipt | None) -> list[Any]:
    """Everything about a training that must not depend on how it was run: all epochs' metrics, and the weights."""
    assert receipt is not None
    timeless = [{k: v for k, v in r.metrics.items() if k != "images_per_second"} for r in receipt.epochs]
    return [receipt.state, receipt.reason, receipt.parameters, receipt.weights_sha256, timeless]


class Interruption(BaseException):
    """Ends a training where it stands, as a kill would."""


def interrupt_at(kind: str, epoch: int) -> Any:
    """A listener that ends the process's work at an event."""

    def listener(event: Event) -> None:
        if event.kind == kind and event.epoch == epoch:
            raise Interruption

    return listener
