"""What every loss shares: hyperparameters, precision, the teacher's preparation.

Shape suffixes: N samples of the micro-batch, C classes.
"""

import copy
import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from ._hyperparameter import Hyperparameter, checked, declared, default_of, refuse
from ._standardize import standardize
from ._teacher import TeacherBatch, in_working_precision


class Loss(ABC):
    """A pure function of logits: ``loss(student_NC, teacher, target_N)`` is a scalar.

    Derive from :class:`LabelLoss` or :class:`DistillationLoss`, and decorate the class with
    ``@dataclass(frozen=True, kw_only=True, eq=False)``. Two losses are equal when they have the
    same class, hyperparameters and standardization.
    """

    uses_teacher: ClassVar[bool]
    standardizations: ClassVar[tuple[str, ...]]

    # Not a dataclass field: the fields are the hyperparameters, and nothing else.
    standardization: str = "none"

    def __post_init__(self) -> None:
        for field in declared(self):
            value = checked(field, self.name(), getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Loss) or type(self) is not type(other):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))

    def _identity(self) -> tuple[object, ...]:
        values = tuple(getattr(self, field.name) for field in declared(self))
        return (*values, self.standardization)

    @classmethod
    def name(cls) -> str:
        """The loss's name in the grids: the stem of its file."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def hyperparameters(cls) -> tuple[Hyperparameter, ...]:
        """Names and defaults, in the order of declaration."""
        return tuple(Hyperparameter(field.name, default_of(field)) for field in declared(cls))

    def settings(self) -> dict[str, float | str]:
        """The hyperparameters' values by name, ready for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def with_standardization(self, standardization: str) -> Self:
        """The same loss under another logit standardization.

        Raises:
            ValueError: this loss does not have that standardization.
        """
        if standardization not in self.standardizations:
            problem = f'unknown standardization of loss "{self.name()}":'
            raise ValueError(refuse(problem, standardization, self.standardizations))
        changed = copy.copy(self)
        object.__setattr__(changed, "standardization", standardization)
        return changed

    def __call__(self, student_NC: Tensor, teacher: Tensor | TeacherBatch | None, target_N: Tensor) -> Tensor:
        """The loss in nats, averaged over the batch: float32 (float64 for float64 logits).

        Autocast is switched off inside, whatever dtype the logits come in. The result is
        differentiable in the student's logits; the teacher never gets a gradient.

        Args:
            student_NC: the student's logits, N >= 1 samples by C >= 2 classes.
            teacher: the teacher's logits (N, C); or a :class:`TeacherBatch`, which several
                students share; or None where ``uses_teacher`` is false.
            target_N: the labels, integers in [0, C).

        Raises:
            ValueError: shapes or dtypes do not fit, or the teacher is missing.
        """
        if student_NC.dim() != 2 or student_NC.shape[0] < 1 or student_NC.shape[1] < 2:
            shape = tuple(student_NC.shape)
            raise ValueError(f"student logits must be (N >= 1, C >= 2), got {shape}")
        if not student_NC.is_floating_point():
            raise ValueError(f"student logits must be floating point, got {student_NC.dtype}")
        if target_N.shape != student_NC.shape[:1] or target_N.is_floating_point():
            raise ValueError(
                f"target must be {student_NC.shape[0]} integer labels, got {tuple(target_N.shape)} of {target_N.dtype}"
            )
        with torch.autocast(student_NC.device.type, enabled=False):
            return self._value(in_working_precision(student_NC), teacher, target_N)

    @abstractmethod
    def _value(self, student_NC: Tensor, teacher: Tensor | TeacherBatch | None, target_N: Tensor) -> Tensor:
        """The loss of checked float32 or float64 logits."""


class LabelLoss(Loss):
    """A loss of the labels alone: it takes any teacher, or None, and does not look at it."""

    uses_teacher: ClassVar[bool] = False
    standardizations: ClassVar[tuple[str, ...]] = ("none",)

    def _value(self, student_NC: Tensor, teacher: Tensor | TeacherBatch | None, target_N: Tensor) -> Tensor:
        return self.formula(student_NC, target_N.long())

    @abstractmethod
    def formula(self, student_NC: Tensor, target_N: Tensor) -> Tensor:
        """The scalar loss, averaged over the batch."""


class DistillationLoss(Loss):
    """A loss of the labels and a teacher.

    ``standardization`` (paper, Appendix F) replaces logits by their z-scores over the classes:
    ``"both"`` the teacher's and the student's in the distillation term, ``"teacher"`` only the
    teacher's. Cross-entropy always sees raw logits.
    """

    uses_teacher: ClassVar[bool] = True
    standardizations: ClassVar[tuple[str, ...]] = ("none", "both", "teacher")

    @property
    def standardizes_teacher(self) -> bool:
        """Whether the distillation term sees the teacher's z-scores."""
        return self.standardization != "none"

    def _value(self, student_NC: Tensor, teacher: Tensor | TeacherBatch | None, target_N: Tensor) -> Tensor:
        if teacher is None:
            raise ValueError(f'loss "{self.name()}" needs the teacher\'s logits, got None')
        if isinstance(teacher, Tensor):
            teacher = TeacherBatch(teacher, target_N)
        if teacher.logits_NC.shape != student_NC.shape:
            raise ValueError(
                f"teacher and student logits differ in shape: "
                f"{tuple(teacher.logits_NC.shape)} and {tuple(student_NC.shape)}"
            )
        teacher.require_target(target_N)
        distilled_NC = standardize(student_NC) if self.standardization == "both" else student_NC
        return self.formula(student_NC, distilled_NC, teacher, target_N.long())

    @abstractmethod
    def formula(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """The scalar loss, averaged over the batch.

        Args:
            student_NC: raw student logits, for cross-entropy.
            distilled_NC: the student as the distillation term sees it, raw or standardized.
            teacher: ask it with ``self.standardizes_teacher``.
            target_N: the labels.
        """
