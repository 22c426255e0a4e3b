"""DIST: distillation by Pearson correlations (paper, section 2.2; Huang et al. 2022).

Shape suffixes: N samples of the micro-batch, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ._base import DistillationLoss
from ._hyperparameter import number
from ._teacher import Centred, TeacherBatch, centre, soften

# Added to the product of the two norms, so that a constant row or column correlates with nothing.
_EPSILON = 1e-8


def _distance(student: Centred, teacher: Centred, dim: int) -> Tensor:
    """1 - the mean Pearson correlation along a dimension."""
    covariance = (student.values_NC * teacher.values_NC).sum(dim=dim)
    return 1 - (covariance / (student.norms * teacher.norms + _EPSILON)).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dist(DistillationLoss):
    """alpha * CE + tau^2 * (beta * inter + gamma * intra), with q = softmax(logits / tau).

    inter = 1 - the mean over samples of the Pearson correlation of q_s and q_t over the classes;
    intra = 1 - the mean over classes of their correlation over the samples. The micro-batch is
    what intra is defined on: a batch of one has no correlation, and intra is 1.

    Attributes:
        alpha: the weight of cross-entropy, at least 0.
        beta: the weight of inter, at least 0.
        gamma: the weight of intra, at least 0.
        tau: the temperature of both softmaxes, above 0.
    """

    alpha: float = number(0.1, at_least=0)
    beta: float = number(0.45, at_least=0)
    gamma: float = number(0.45, at_least=0)
    tau: float = number(1.0, above=0)

    def formula(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.formula`."""
        student_q_NC = torch.softmax(soften(distilled_NC, self.tau), dim=1)
        over_samples, over_classes = (
            _distance(
                centre(student_q_NC, dim),
                teacher.centred_probabilities(self.tau, self.standardizes_teacher, dim),
                dim,
            )
            for dim in (0, 1)
        )
        cross_entropy = functional.cross_entropy(student_NC, target_N)
        relations = self.beta * over_classes + self.gamma * over_samples
        return self.alpha * cross_entropy + self.tau**2 * relations
