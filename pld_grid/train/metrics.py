"""Sums over an epoch that stay on the device until it ends. Shape suffixes: N images, C classes."""

import functools
import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor


class TrainMetrics:
    """Mean training loss, and the first micro-batch whose loss was not finite.

    Keeps the losses as they are: on a small model, arithmetic on single numbers is a noticeable part of a step.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def update(self, loss: Tensor) -> None:
        """Adds a micro-batch's loss (a scalar)."""
        self.losses.append(loss)

    def dealt(self, numbers: Sequence[int], count: int) -> Tensor:
        """The losses at their place among all `count` micro-batches, zeros elsewhere: their sum over a group is all."""
        everywhere = torch.zeros(count, dtype=torch.float64)
        if self.losses:
            everywhere[list(numbers)] = torch.stack(self.losses).double().cpu()
        return everywhere

    def take(self, everywhere: Tensor) -> None:
        """Makes the losses of all micro-batches this epoch's."""
        self.losses = list(everywhere.unbind())

    def first_bad(self) -> int | None:
        """The number of the first micro-batch whose loss was not finite."""
        return next((number for number, loss in enumerate(self._read()) if not math.isfinite(loss)), None)

    def mean_loss(self) -> float:
        """The mean over micro-batches, in nats."""
        # One after the other in float64: sum() rounds differently from Python 3.12 on.
        total = functools.reduce(operator.add, self._read(), 0.0)
        return total / max(len(self.losses), 1)

    def _read(self) -> list[float]:
        """The losses, copied from the device at once."""
        values: list[float] = torch.stack(self.losses).double().tolist() if self.losses else []
        return values


class ValidationMetrics:
    """Exact top-1, top-5 and both KL divergences to the teacher over the validation set."""

    SIZE = 7  # of `vector`

    def __init__(self, device: torch.device) -> None:
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        self.count = 0
        self.has_teacher = False

    def update(self, student_NC: Tensor, target_N: Tensor, teacher_NC: Tensor | None) -> None:
        """Adds a batch of logits; `teacher_NC` is None for students without a teacher."""
        self.finite &= torch.isfinite(student_NC).all()
        top = student_NC.topk(min(5, student_NC.shape[-1])).indices == target_N[:, None]
        parts = [top[:, 0].sum(), top.sum()]
        if teacher_NC is not None:
            self.has_teacher = True
            log_s = torch.log_softmax(student_NC.double(), dim=-1)
            log_t = torch.log_softmax(teacher_NC.double(), dim=-1)
            parts += [(log_t.exp() * (log_t - log_s)).sum(), (log_s.exp() * (log_s - log_t)).sum()]
        self.sums[: len(parts)] += torch.stack([part.double() for part in parts])
        self.count += len(target_N)

    def vector(self) -> Tensor:
        """Everything that is known, to be summed over a group."""
        known = torch.stack([~self.finite, torch.tensor(self.has_teacher, device=self.sums.device)])
        count = torch.tensor([self.count], dtype=torch.float64, device=self.sums.device)
        return torch.cat([self.sums, count, known.double()])

    def take(self, total: Tensor) -> None:
        """Makes the sum of a group's vectors what is known."""
        self.sums = total[:4]
        count, infinite, taught = total[4:].tolist()
        self.count, self.has_teacher = int(count), taught > 0
        self.finite = torch.tensor(infinite == 0, device=total.device)

    def result(self) -> dict[str, float]:
        """Accuracies in percent; divergences in nats, `kl_teacher_student` being KL(q_t||q_s) at temperature 1."""
        top1, top5, teacher_student, student_teacher = (self.sums / max(self.count, 1)).tolist()
        result = {"top1": 100 * top1, "top5": 100 * top5}
        if self.has_teacher:
            result |= {"kl_teacher_student": teacher_student, "kl_student_teacher": student_teacher}
        return result
