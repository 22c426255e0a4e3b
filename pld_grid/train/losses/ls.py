"""LS: cross-entropy with label smoothing (paper, Table 1; Szegedy et al. 2016)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ._base import LabelLoss
from ._hyperparameters import number

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSmoothing(LabelLoss):
    """Cross-entropy against (1 - eps) * one-hot + eps / C, averaged over the batch.

    Attributes:
        eps: Probability mass that is spread evenly over all C classes, in [0, 1).
    """

    eps: float = number(0.1, at_least=0, below=1)

    def forward(self, student_NC: Tensor, target_N: Tensor) -> Tensor:
        """See :meth:`LabelLoss.forward`."""
        return functional.cross_entropy(student_NC, target_N, label_smoothing=self.eps)
