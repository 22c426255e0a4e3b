"""The lower bound of a training's time: its arithmetic in a plain loop, without metrics, validation or files."""

import time
from collections.abc import Sequence

import torch

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.cohort import Cohort
from pld_grid.store import Store
from pld_grid.train import data, losses
from pld_grid.train.loader import Loader
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.models import Teacher, build_model, normalize_for
from pld_grid.train.optim import build_optimizer


def floor(cells: Sequence[Cell], store: Store, epochs: int = 1) -> float:
    """Return the seconds per epoch of loading, one teacher pass, and the steps of every student."""
    first = cells[0]
    # The memory format of the digits profile.
    layout = torch.channels_last
    loader = Loader(data.load(first.dataset, first.recipe), first.recipe, first.seed)
    cohort = Cohort(tuple(cells))
    teacher = Teacher(cohort.teacher, store) if cohort.teacher is not None else None
    if teacher is not None:
        teacher = teacher.to(memory_format=layout)
    students = []
    for cell in cells:
        model = build_model(cell.student, cell.dataset, cell.seed).train().to(memory_format=layout)
        loss = losses.build(cell.loss.name, standardization=cell.loss.standardization, **cell.loss.hyperparameters)
        students.append((model, normalize_for(cell), loss, build_optimizer(model, cell.optimizer)))
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        for pixels, target in loader.train_batches(epoch):
            pixels = pixels.contiguous(memory_format=layout)
            batch = TeacherBatch(teacher(pixels), target) if teacher is not None else None
            for model, normalize, loss, optimizer in students:
                optimizer.zero_grad()
                loss(model(normalize(pixels)), batch if loss.uses_teacher else None, target).backward()
                optimizer.step()
    return (time.perf_counter() - started) / epochs
