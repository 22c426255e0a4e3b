"""Cross-entropy with label smoothing (paper, Table 1; Szegedy et al. 2016)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ._base import LabelLoss
from ._hyperparameter import number


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSmoothing(LabelLoss):
    """Cross-entropy against (1 - eps) * one-hot + eps / C.

    Attributes:
        eps: the share of the mass that is spread evenly over all C classes, in [0, 1).
    """

    eps: float = number(0.1, at_least=0, below=1)

    def formula(self, student_NC: Tensor, target_N: Tensor) -> Tensor:
        """See :meth:`LabelLoss.formula`."""
        return functional.cross_entropy(student_NC, target_N, label_smoothing=self.eps)
