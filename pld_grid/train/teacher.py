"""Run the teacher of a cohort on each batch.

Shape suffixes: N images, C channels or classes, H and W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.cohort import Cohort
from pld_grid.store import Store
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.models import Teacher
from pld_grid.train.run_context import RunContext
from pld_grid.train.student import DTYPES


class TeacherRunner:
    """Compute the teacher's logits of a batch, once for all students; None in a cohort without a teacher.

    Args:
        cells: the cohort, whose cells share one teacher or have none.
        store: has the weights of a teacher that was trained before.
        context: names the folder of published weights, and how the machine runs models.
        device: that the students run on.

    Raises:
        StoreError: the store has no weights of the teacher.
        WeightsError: its published weights cannot be used.
    """

    def __init__(self, cells: Sequence[Cell], store: Store, context: RunContext, device: torch.device) -> None:
        dtype = DTYPES[cells[0].recipe.precision]
        self._autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self._validation: list[Tensor] = []
        self._teacher: Teacher | None = None
        cell = Cohort(tuple(cells)).teacher
        if cell is None:
            return
        self._teacher = Teacher(cell, store, context.weights_folder).to(device)
        if context.machine.channels_last:
            self._teacher = self._teacher.to(memory_format=torch.channels_last)
        if context.machine.compile:
            self._teacher.model = torch.compile(self._teacher.model)  # type: ignore[assignment]

    def train_batch(self, pixels_NCHW: Tensor, target_N: Tensor) -> TeacherBatch | None:
        """Return what the losses need of the teacher for a training batch."""
        return TeacherBatch(self._logits(pixels_NCHW), target_N) if self._teacher is not None else None

    def validation_logits(self, number: int, pixels_NCHW: Tensor) -> Tensor | None:
        """Return logits (N, C) for validation batch `number`, computed once as the teacher never changes."""
        if self._teacher is None:
            return None
        if number == len(self._validation):
            self._validation.append(self._logits(pixels_NCHW).float())
        return self._validation[number]

    def _logits(self, pixels_NCHW: Tensor) -> Tensor:
        assert self._teacher is not None
        with self._autocast:
            logits_NC: Tensor = self._teacher(pixels_NCHW)
        return logits_NC
