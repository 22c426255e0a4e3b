"""The losses a student can be trained with: one file each, found by its name.

``build("kd", alpha=0.2)`` makes a loss; calling it gives a scalar::

    loss = build("pld", standardization="teacher", tau=2.0)
    value = loss(student_NC, teacher_NC, target_N)

A new loss is one new file here. Its stem is its name in the grids, and it holds one frozen
dataclass derived from :class:`LabelLoss` or :class:`DistillationLoss` whose fields are the
hyperparameters. Files that start with an underscore hold no loss.

Shape suffixes: N samples of the micro-batch, C classes.
"""

import importlib
import inspect
import pkgutil
from typing import Any

from ._base import DistillationLoss, LabelLoss, Loss
from ._hyperparameter import Hyperparameter, choice, number, refuse
from ._teacher import TeacherBatch

__all__ = [
    "DistillationLoss",
    "Hyperparameter",
    "LabelLoss",
    "Loss",
    "TeacherBatch",
    "available",
    "build",
    "choice",
    "loss_class",
    "number",
]


def available() -> tuple[str, ...]:
    """The names of all losses, sorted: the file stems that do not start with an underscore."""
    stems = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_")))


def loss_class(name: str) -> type[Loss]:
    """The dataclass behind a loss name; its fields are its hyperparameters.

    Raises:
        ValueError: there is no such loss; the message lists them.
        TypeError: the loss's file does not define exactly one loss (an error of its author).
    """
    if name not in available():
        raise ValueError(refuse("unknown loss", name, available()))
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, Loss)
        and member.__module__ == module.__name__
        and not inspect.isabstract(member)
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one loss, found {len(found)}")
    return found[0]


def build(name: str, *, standardization: str = "none", **hyperparameters: Any) -> Loss:
    """Make a loss by name; hyperparameters left out take their defaults.

    Args:
        name: one of :func:`available`.
        standardization: ``"none"``; or, where the loss uses a teacher, ``"both"`` or
            ``"teacher"`` (see :class:`DistillationLoss`).
        **hyperparameters: fields of ``loss_class(name)``.

    Raises:
        ValueError: an unknown name, hyperparameter or standardization, or a value out of range.
    """
    cls = loss_class(name)
    valid = tuple(hyperparameter.name for hyperparameter in cls.hyperparameters())
    for given in hyperparameters:
        if given not in valid:
            raise ValueError(refuse(f'unknown hyperparameter of loss "{name}":', given, valid))
    return cls(**hyperparameters).with_standardization(standardization)
