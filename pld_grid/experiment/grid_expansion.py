"""Expand the blocks of a grid into entries: every cell, with the labels that the grid gives it."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pld_grid.experiment.cell import Cell, Loss, Scalar
from pld_grid.experiment.grid_blocks import GridBlocks
from pld_grid.experiment.grid_schema import AXES, Block
from pld_grid.experiment.registry import LossInfo

Labels = Mapping[str, Scalar]
# Of blocks that do not say.
STANDARD_EPOCHS = "paper-100"


@dataclass(frozen=True)
class Entry:
    """One use of a cell by a table: the cell, and the labels that the grid gives it."""

    labels: Labels
    cell: Cell
    role: Literal["student", "teacher", "baseline"]
    block: int


def count_entries(blocks: GridBlocks) -> int:
    """Return how many entries the blocks expand to, without building them, repetitions included."""
    return sum(_count_block(blocks, number) for number in range(len(blocks.file.cells)))


def expand_blocks(blocks: GridBlocks) -> Iterator[Entry]:
    """Yield every entry once; sweeps over an axis that some losses do not have produce repetitions."""
    seen: set[tuple[Any, ...]] = set()
    for number, block in enumerate(blocks.file.cells):
        expand = _expand_teachers if block.role == "teacher" else _expand_students
        for entry in expand(blocks, number, block):
            key = (entry.role, entry.cell.cell_id, tuple(sorted((k, str(v)) for k, v in entry.labels.items())))
            if key not in seen:
                seen.add(key)
                yield entry


def _count_block(blocks: GridBlocks, number: int) -> int:
    if blocks.file.cells[number].role == "teacher":
        return len(blocks.values(number, "teacher"))
    losses = 0
    for name in blocks.values(number, "loss"):
        info = blocks.loss(number, name)
        points = sum(math.prod(len(v) for v in sweep.values()) for sweep in blocks.sweeps(number, name))
        points *= len(blocks.divergences(number, info))
        losses += points * (len(blocks.values(number, "standardization")) if info.uses_teacher else 1)
    axes = [blocks.values(number, axis) for axis in ("teacher", "student", "epochs", "optimizer")]
    return losses * math.prod(len(v) for v in axes) * len(blocks.seed_values(number))


def _expand_teachers(blocks: GridBlocks, number: int, block: Block) -> Iterator[Entry]:
    for name in blocks.values(number, "teacher"):
        if name is None:
            raise blocks.error(number, "teacher", "a teacher block needs teacher names")
        labels = {**block.labels, "teacher": name, "loss": "teacher"}
        _check_labels(blocks, number, block, AXES)
        yield Entry(labels, blocks.resolve(number, "teacher", name), "teacher", number)


def _expand_students(blocks: GridBlocks, number: int, block: Block) -> Iterator[Entry]:
    profile = blocks.profile
    for teacher, student, epochs, optimizer in itertools.product(
        blocks.values(number, "teacher"),
        blocks.values(number, "student"),
        blocks.values(number, "epochs", STANDARD_EPOCHS),
        blocks.values(number, "optimizer", profile.file.optimizer),
    ):
        if student is None:
            raise blocks.error(number, "student", "this block names no student")
        for loss, seed in itertools.product(_expand_losses(blocks, number), blocks.seed_values(number)):
            uses_teacher = profile.registry.losses[loss.name].uses_teacher
            if uses_teacher and teacher is None:
                raise blocks.error(number, "teacher", f"loss {loss.name} needs a teacher, this block names none")
            labels: dict[str, Scalar] = {"student": student, "epochs": epochs}
            labels |= {"optimizer": optimizer, "loss": loss.name, "standardization": loss.standardization}
            labels |= {**loss.hyperparameters, "seed": seed}
            if teacher is not None:
                labels["teacher"] = teacher
            _check_labels(blocks, number, block, labels)
            cell = Cell(
                dataset=profile.dataset,
                recipe=profile.recipe,
                teacher=blocks.resolve(number, "teacher", teacher) if uses_teacher else None,
                student=blocks.resolve(number, "student", student),
                loss=loss,
                optimizer=blocks.resolve(number, "optimizer", optimizer),
                epochs=blocks.resolve(number, "epochs", epochs),
                seed=seed,
            )
            yield Entry({**block.labels, **labels}, cell, block.role, number)


def _expand_losses(blocks: GridBlocks, number: int) -> Iterator[Loss]:
    for name in blocks.values(number, "loss"):
        info = blocks.loss(number, name)
        for hyperparameters in _expand_hyperparameters(blocks, number, info):
            for standardization in blocks.standardizations(number, info):
                yield info.make(hyperparameters, standardization)


def _expand_hyperparameters(blocks: GridBlocks, number: int, info: LossInfo) -> Iterator[dict[str, Scalar]]:
    for sweep in blocks.sweeps(number, info.name):
        for *point, divergence in itertools.product(*sweep.values(), blocks.divergences(number, info)):
            given = dict(zip(sweep, point, strict=True))
            if divergence is not None:
                given["divergence"] = divergence
            try:
                yield info.resolve(given)
            except ValueError as error:
                # `check_blocks` has accepted each value alone, so the combination is wrong.
                raise blocks.error(number, "hyperparameters", str(error), info.name) from None


def _check_labels(blocks: GridBlocks, number: int, block: Block, axes: Collection[str]) -> None:
    for name in block.labels:
        if name in axes:
            raise blocks.error(number, "labels", f'"{name}" is an axis of this block already', name)
