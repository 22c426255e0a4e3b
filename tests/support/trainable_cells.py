"""Cells that train in seconds on one core (real digits at 8 pixels, small timm models), and how to train them."""

from pathlib import Path
from typing import Any

import torch

from pld_grid.experiment.cell import Augmentation, Cell, Dataset, Loss, Model, Optimizer, Recipe
from pld_grid.experiment.events import Event
from pld_grid.store import Receipt, Store
from pld_grid.train import losses
from pld_grid.train.cohort import train_cohort
from pld_grid.train.models import build_model, dump_weights
from pld_grid.train.run_context import RunContext

VIT = Model(
    architecture="test_vit",
    options={"img_size": 8, "patch_size": 4, "depth": 2, "drop_rate": 0.1, "drop_path_rate": 0.2},
)
RESNET = Model(architecture="test_resnet")


def trainable(loss: str = "ce", **changes: Any) -> Cell:
    """Return a student without a teacher; `loss` has its default hyperparameters unless `changes` say otherwise."""
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
    """Return the teacher of `distilled()`."""
    return trainable(student=RESNET, epochs=1)


def distilled(loss: str = "kd", **changes: Any) -> Cell:
    """Return a student of `teacher()`."""
    return trainable(loss, **({"teacher": teacher()} | changes))


def give_weights(store: Store, cell: Cell) -> None:
    """Finish a teacher with its initial weights, which is enough where its accuracy does not matter."""
    from cells import finish

    finish(store, cell, weights=dump_weights(build_model(cell.student, cell.dataset, cell.seed)))


def train(folder: Path, *cells: Cell, on_event: Any = lambda _: None, **changes: Any) -> dict[str, Receipt | None]:
    """Train cells as one cohort on one thread; return receipts by cell id."""
    torch.set_num_threads(1)
    store = Store(folder)
    for cell in cells:
        if cell.teacher is not None and store.receipt(cell.teacher) is None:
            give_weights(store, cell.teacher)
    train_cohort(list(cells), RunContext(store=str(folder), **changes), on_event)
    return {cell.cell_id: store.receipt(cell) for cell in cells}


def train_one(folder: Path, cell: Cell, **changes: Any) -> Receipt:
    """Train one cell as a cohort of its own and return its receipt."""
    return train(folder, cell, **changes)[cell.cell_id]


def numbers(receipt: Receipt | None) -> list[Any]:
    """Return what must not depend on how a training was run: end, weights and the metrics of all epochs."""
    timeless = [{k: v for k, v in r.metrics.items() if k != "images_per_second"} for r in receipt.epochs]
    return [receipt.state, receipt.reason, receipt.parameters, receipt.weights_sha256, timeless]


class Interruption(BaseException):
    """Ends a training immediately, as a kill would."""


def interrupt_at(kind: type[Event], epoch: int) -> Any:
    """Return a callback that raises Interruption at an event of an epoch."""

    def on_event(event: Event) -> None:
        if isinstance(event, kind) and getattr(event, "epoch", None) == epoch:
            raise Interruption

    return on_event
