"""KD: classical knowledge distillation (paper, section 3.1 and Appendix G; Hinton et al. 2015).

Shape suffixes: N samples of the micro-batch, C classes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ._base import DistillationLoss
from ._hyperparameters import choice, number
from ._logits import soften
from ._teacher_batch import TeacherBatch

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1


def _forward(log_student_NC: Tensor, log_teacher_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """Return the terms of KL(q_t || q_s)."""
    return teacher_NC * (log_teacher_NC - log_student_NC)


def _reverse(log_student_NC: Tensor, log_teacher_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """Return the terms of KL(q_s || q_t)."""
    return log_student_NC.exp() * (log_student_NC - log_teacher_NC)


def _jensen_shannon(log_student_NC: Tensor, log_teacher_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """Return the terms of KL(q_t || m) / 2 + KL(q_s || m) / 2, m being the mean of q_t and q_s."""
    log_mean_NC = torch.logaddexp(log_student_NC, log_teacher_NC) - math.log(2)
    from_teacher_NC = teacher_NC * (log_teacher_NC - log_mean_NC)
    return (from_teacher_NC + log_student_NC.exp() * (log_student_NC - log_mean_NC)) / 2


# Each returns the terms (N, C) whose sum over the classes is the divergence. They take log-probabilities, which are
# finite for finite logits: a probability that underflows to 0 contributes 0, never NaN.
_DIVERGENCES = {"forward": _forward, "reverse": _reverse, "js": _jensen_shannon}


@dataclass(frozen=True, kw_only=True, eq=False)
class KnowledgeDistillation(DistillationLoss):
    """alpha * CE + (1 - alpha) * tau^2 * D(q_t, q_s), with q = softmax(logits / tau).

    D is summed over the classes and averaged over the batch. tau^2 applies to every divergence.

    Attributes:
        alpha: Weight of cross-entropy, in [0, 1].
        tau: Temperature of both softmaxes, above 0.
        divergence: ``forward`` KL(q_t || q_s), ``reverse`` KL(q_s || q_t), or ``js`` (Jensen-Shannon).
    """

    alpha: float = number(0.1, at_least=0, at_most=1)
    tau: float = number(2.0, above=0)
    divergence: str = choice("forward", among=_DIVERGENCES)

    def forward(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.forward`."""
        terms_NC = _DIVERGENCES[self.divergence](
            torch.log_softmax(soften(distilled_NC, self.tau), dim=1),
            teacher.log_probabilities(self.tau, self.standardizes_teacher),
            teacher.probabilities(self.tau, self.standardizes_teacher),
        )
        cross_entropy = functional.cross_entropy(student_NC, target_N)
        divergence = terms_NC.sum(dim=1).mean()
        return self.alpha * cross_entropy + (1 - self.alpha) * self.tau**2 * divergence
