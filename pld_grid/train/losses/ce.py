"""Cross-entropy (paper, section 3.1)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ._base import LabelLoss


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossEntropy(LabelLoss):
    """-s_y + logsumexp(s), averaged over the batch."""

    def formula(self, student_NC: Tensor, target_N: Tensor) -> Tensor:
        """See :meth:`LabelLoss.formula`."""
        return functional.cross_entropy(student_NC, target_N)
