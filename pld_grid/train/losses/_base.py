"""The base classes of all losses: they check the inputs, fix the precision and prepare the teacher.

Shape suffixes: N samples of the micro-batch, C classes.
"""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ._hyperparameters import VALIDATOR, validated_fields
from ._logits import check_batch, standardize, to_working_precision
from ._teacher_batch import TeacherBatch

# The teacher's logits (N, C), or a batch that several students share, or nothing for a loss without a teacher.
TeacherInput = Tensor | TeacherBatch | None


class Loss(ABC):
    """A pure function of logits: ``loss(student_NC, teacher, target_N)`` is a scalar.

    Derive from :class:`LabelLoss` or :class:`DistillationLoss`, and decorate the class with
    ``@dataclass(frozen=True, kw_only=True, eq=False)``. Two losses are equal if their class, hyperparameters and
    standardization are equal.
    """

    uses_teacher: ClassVar[bool]
    standardizations: ClassVar[tuple[str, ...]]

    # Not a dataclass field, because every field of a loss is a hyperparameter.
    standardization: str = "none"

    def __post_init__(self) -> None:
        for field in validated_fields(self):
            value = field.metadata[VALIDATOR](self.name(), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (type(self), *self.settings().items(), self.standardization)

    @classmethod
    def name(cls) -> str:
        """Return the loss's name in the grids: the stem of its file."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def defaults(cls) -> dict[str, float | str]:
        """Return the hyperparameters' defaults by name, in the order of declaration."""
        # number() and choice() always set a default.
        return {field.name: cast("float | str", field.default) for field in validated_fields(cls)}

    def settings(self) -> dict[str, float | str]:
        """Return the hyperparameters' values by name, ready for JSON."""
        fields: Any = self
        return dataclasses.asdict(fields)

    def __call__(self, student_NC: Tensor, teacher: TeacherInput, target_N: Tensor) -> Tensor:
        """Compute the loss in nats, averaged over the batch, in float32 (float64 for float64 logits).

        Autocast is off inside, whatever the logits' dtype. The result is differentiable with respect to the student's
        logits; the teacher never gets a gradient.

        Args:
            student_NC: The student's logits, N >= 1 samples by C >= 2 classes.
            teacher: The teacher's logits (N, C), or a :class:`TeacherBatch` that several students share, or None
                if ``uses_teacher`` is false.
            target_N: The labels, integers in [0, C).

        Raises:
            ValueError: Shapes or dtypes do not fit, or the teacher is missing.
        """
        check_batch("student", student_NC, target_N)
        with torch.autocast(student_NC.device.type, enabled=False):
            return self._prepare_and_forward(to_working_precision(student_NC), teacher, target_N.long())

    @abstractmethod
    def _prepare_and_forward(self, student_NC: Tensor, teacher: TeacherInput, target_N: Tensor) -> Tensor:
        """Call the loss's ``forward`` with checked float32 or float64 logits and int64 labels."""


class LabelLoss(Loss):
    """A loss of the labels alone: it accepts any teacher, or None, and ignores it."""

    uses_teacher: ClassVar[bool] = False
    standardizations: ClassVar[tuple[str, ...]] = ("none",)

    def _prepare_and_forward(self, student_NC: Tensor, teacher: TeacherInput, target_N: Tensor) -> Tensor:
        return self.forward(student_NC, target_N)

    @abstractmethod
    def forward(self, student_NC: Tensor, target_N: Tensor) -> Tensor:
        """Compute the scalar loss, averaged over the batch."""


class DistillationLoss(Loss):
    """A loss of the labels and a teacher.

    ``standardization`` (paper, Appendix F) replaces logits by their z-scores over the classes: ``"both"`` those of the
    teacher and the student in the distillation term, ``"teacher"`` only the teacher's. Cross-entropy always uses raw
    logits.
    """

    uses_teacher: ClassVar[bool] = True
    standardizations: ClassVar[tuple[str, ...]] = ("none", "both", "teacher")

    @property
    def standardizes_teacher(self) -> bool:
        """Whether the distillation term uses the teacher's z-scores."""
        return self.standardization != "none"

    def _prepare_and_forward(self, student_NC: Tensor, teacher: TeacherInput, target_N: Tensor) -> Tensor:
        if teacher is None:
            raise ValueError(f'loss "{self.name()}" needs the teacher\'s logits, got None')
        if isinstance(teacher, Tensor):
            teacher = TeacherBatch(teacher, target_N)
        shapes = tuple(teacher.logits_NC.shape), tuple(student_NC.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"teacher and student logits differ in shape: {shapes[0]} and {shapes[1]}")
        teacher.check_target(target_N)
        distilled_NC = standardize(student_NC) if self.standardization == "both" else student_NC
        return self.forward(student_NC, distilled_NC, teacher, target_N)

    @abstractmethod
    def forward(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """Compute the scalar loss, averaged over the batch.

        Args:
            student_NC: The student's raw logits, for cross-entropy.
            distilled_NC: The student's logits for the distillation term, raw or standardized.
            teacher: The teacher; pass ``self.standardizes_teacher`` to its methods.
            target_N: The labels.
        """
