"""Metrics of an epoch, summed on the device until the epoch ends. Shape suffixes: N images, C classes."""

import functools
import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from pld_grid.experiment.metrics import KL_STUDENT_TEACHER, KL_TEACHER_STUDENT, TOP1, TOP5


class TrainMetrics:
    """Mean training loss, and the first micro-batch whose loss was not finite.

    It keeps the losses and adds them up later: on a small model, arithmetic on scalars takes a noticeable part of a
    step.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def update(self, loss: Tensor) -> None:
        """Add the loss of a micro-batch (a scalar)."""
        self.losses.append(loss)

    def scatter(self, numbers: Sequence[int], count: int) -> Tensor:
        """Return a vector of all `count` micro-batches with this process's losses at `numbers` and zeros elsewhere."""
        scattered = torch.zeros(count, dtype=torch.float64)
        if self.losses:
            scattered[list(numbers)] = torch.stack(self.losses).double().cpu()
        return scattered

    def load_reduced(self, losses: Tensor) -> None:
        """Take over the losses of all processes, as summed up from `scatter`."""
        self.losses = list(losses.unbind())

    def first_non_finite(self) -> int | None:
        """Return the number of the first micro-batch whose loss was not finite."""
        return next((number for number, loss in enumerate(self._to_list()) if not math.isfinite(loss)), None)

    def mean_loss(self) -> float:
        """Return the mean over micro-batches, in nats."""
        # One after the other in float64: sum() rounds differently from Python 3.12 on.
        total = functools.reduce(operator.add, self._to_list(), 0.0)
        return total / max(len(self.losses), 1)

    def _to_list(self) -> list[float]:
        """Copy all losses from the device at once."""
        values: list[float] = torch.stack(self.losses).double().tolist() if self.losses else []
        return values


class ValidationMetrics:
    """Exact top-1, top-5 and both KL divergences to the teacher over the validation set."""

    SIZE = 7  # of `to_vector`

    def __init__(self, device: torch.device) -> None:
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        self.count = 0
        self.has_teacher = False

    def update(self, student_NC: Tensor, target_N: Tensor, teacher_NC: Tensor | None) -> None:
        """Add a batch of logits; `teacher_NC` is None for students without a teacher."""
        self.finite &= torch.isfinite(student_NC).all()
        correct = student_NC.topk(min(5, student_NC.shape[-1])).indices == target_N[:, None]
        sums = [correct[:, 0].sum(), correct.sum()]
        if teacher_NC is not None:
            self.has_teacher = True
            log_s = torch.log_softmax(student_NC.double(), dim=-1)
            log_t = torch.log_softmax(teacher_NC.double(), dim=-1)
            sums += [(log_t.exp() * (log_t - log_s)).sum(), (log_s.exp() * (log_s - log_t)).sum()]
        self.sums[: len(sums)] += torch.stack([value.double() for value in sums])
        self.count += len(target_N)

    def to_vector(self) -> Tensor:
        """Return the state as a vector that can be summed over a group."""
        flags = torch.stack([~self.finite, torch.tensor(self.has_teacher, device=self.sums.device)])
        count = torch.tensor([self.count], dtype=torch.float64, device=self.sums.device)
        return torch.cat([self.sums, count, flags.double()])

    def load_reduced(self, total: Tensor) -> None:
        """Take over the state of all processes, as summed up from `to_vector`."""
        self.sums = total[:4]
        count, infinite, with_teacher = total[4:].tolist()
        self.count, self.has_teacher = int(count), with_teacher > 0
        self.finite = torch.tensor(infinite == 0, device=total.device)

    def compute(self) -> dict[str, float]:
        """Return accuracies in percent, divergences in nats; `kl_teacher_student` is KL(q_t||q_s) at temperature 1."""
        top1, top5, teacher_student, student_teacher = (self.sums / max(self.count, 1)).tolist()
        result = {TOP1.name: 100 * top1, TOP5.name: 100 * top5}
        if self.has_teacher:
            result |= {KL_TEACHER_STUDENT.name: teacher_student, KL_STUDENT_TEACHER.name: student_teacher}
        return result
