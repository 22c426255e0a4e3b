"""DIST: distillation by Pearson correlations (paper, section 2.2; Huang et al. 2022).

Shape suffixes: N samples of the micro-batch, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ._base import DistillationLoss
from ._hyperparameters import number
from ._logits import soften
from ._teacher_batch import TeacherBatch

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

# Added to the product of the two norms, so that a constant row or column has correlation 0.
_EPSILON = 1e-8


def _centre(values_NC: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the values minus their mean along a dimension, and the norms along it: one side of a correlation."""
    centred_NC = values_NC - values_NC.mean(dim=dim, keepdim=True)
    return centred_NC, torch.linalg.vector_norm(centred_NC, dim=dim)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dist(DistillationLoss):
    """alpha * CE + tau^2 * (beta * inter + gamma * intra), with q = softmax(logits / tau).

    inter = 1 - the mean over samples of the Pearson correlation of q_s and q_t over the classes;
    intra = 1 - the mean over classes of their correlation over the samples. intra is defined on the micro-batch:
    a batch of one has no correlation, and intra is 1.

    Attributes:
        alpha: Weight of cross-entropy, at least 0.
        beta: Weight of inter, at least 0.
        gamma: Weight of intra, at least 0.
        tau: Temperature of both softmaxes, above 0.
    """

    alpha: float = number(0.1, at_least=0)
    beta: float = number(0.45, at_least=0)
    gamma: float = number(0.45, at_least=0)
    tau: float = number(1.0, above=0)

    def forward(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.forward`."""
        student_q_NC = torch.softmax(soften(distilled_NC, self.tau), dim=1)
        intra, inter = (self._distance(student_q_NC, teacher, dim) for dim in (0, 1))
        cross_entropy = functional.cross_entropy(student_NC, target_N)
        return self.alpha * cross_entropy + self.tau**2 * (self.beta * inter + self.gamma * intra)

    def _distance(self, student_q_NC: Tensor, teacher: TeacherBatch, dim: int) -> Tensor:
        """Return 1 - the mean Pearson correlation of q_s and q_t along a dimension."""
        student_NC, student_norms = _centre(student_q_NC, dim)
        teacher_NC, teacher_norms = teacher.cached(
            ("centred", self.tau, self.standardizes_teacher, dim),
            lambda: _centre(teacher.probabilities(self.tau, self.standardizes_teacher), dim),
        )
        covariance = (student_NC * teacher_NC).sum(dim=dim)
        return 1 - (covariance / (student_norms * teacher_norms + _EPSILON)).mean()
