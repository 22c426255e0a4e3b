"""The losses that a student can be trained with: one file per loss, discovered by its name.

``build("kd", alpha=0.2)`` returns a loss; calling it returns a scalar::

    loss = build("pld", standardization="teacher", tau=2.0)
    value = loss(student_NC, teacher_NC, target_N)

To add a loss, add one file here. Its stem is the loss's name in the grids, and it defines one frozen dataclass derived
from :class:`LabelLoss` or :class:`DistillationLoss` whose fields are the hyperparameters. Files that start with an
underscore define no loss.

Shape suffixes: N samples of the micro-batch, C classes.
"""

import importlib
import inspect
import pkgutil
from typing import Any

from ._base import DistillationLoss, LabelLoss, Loss
from ._hyperparameters import unknown_name
from ._teacher_batch import TeacherBatch

__all__ = ["DistillationLoss", "LabelLoss", "Loss", "TeacherBatch", "available", "build", "get_loss_class"]


def available() -> tuple[str, ...]:
    """Return the names of all losses, sorted: the file stems that do not start with an underscore."""
    stems = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_")))


def get_loss_class(name: str) -> type[Loss]:
    """Return the dataclass of a loss; its fields are the loss's hyperparameters.

    Raises:
        ValueError: No loss has this name; the message lists the valid ones.
        TypeError: The loss's file does not define exactly one loss (a mistake of its author).
    """
    if name not in available():
        raise ValueError(unknown_name("unknown loss", name, available()))
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Loss) and member.__module__ == module.__name__ and not inspect.isabstract(member)
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one loss, not {len(classes)}")
    return classes[0]


def build(name: str, *, standardization: str = "none", **hyperparameters: Any) -> Loss:
    """Create a loss by name; hyperparameters that are left out take their defaults.

    Args:
        name: One of :func:`available`.
        standardization: ``"none"``; for losses that use a teacher also ``"both"`` or ``"teacher"``
            (see :class:`DistillationLoss`).
        **hyperparameters: Fields of ``get_loss_class(name)``.

    Raises:
        ValueError: The name, a hyperparameter or the standardization is unknown, or a value is out of range.
    """
    loss_class = get_loss_class(name)
    valid = loss_class.defaults()
    for hyperparameter in hyperparameters:
        if hyperparameter not in valid:
            raise ValueError(unknown_name(f'unknown hyperparameter of loss "{name}":', hyperparameter, valid))
    loss = loss_class(**hyperparameters)
    if standardization not in loss.standardizations:
        problem = f'unknown standardization of loss "{name}":'
        raise ValueError(unknown_name(problem, standardization, loss.standardizations))
    object.__setattr__(loss, "standardization", standardization)
    return loss
