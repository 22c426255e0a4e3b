"""DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022), as in the later edition's CIFAR-100 table.

Shape suffixes: N samples of the micro-batch, C classes, R = C - 1 classes other than the label.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoupledDistillation(DistillationLoss):
    """ce_weight * CE + tau^2 * (alpha * TCKD + beta * NCKD), with q = softmax(logits / tau).

    KD's KL(q_t || q_s) equals TCKD + (1 - q_t(label)) * NCKD. TCKD (target class) is the divergence between the
    label's probability and that of all other classes together; NCKD (non-target classes) is the divergence of the
    distributions over the other classes alone. DKD weights the two independently, so that NCKD does not vanish where
    the teacher is confident. Both are summed over their classes and averaged over the batch.

    The publication's formula is alpha * TCKD + beta * NCKD; its code adds cross-entropy with weight 1 and multiplies
    by tau^2, as here. The code differs in three ways. It removes the label from NCKD by subtracting 1000 from its
    softened logit, which gives the same distributions up to rounding. It takes logarithms of TCKD's probabilities
    without an epsilon, so that a probability which underflows to 0 makes the loss infinite, unlike here. And it
    multiplies the distillation term by min(epoch / 20, 1), counting epochs from 1; this loss has no such warm-up,
    because a loss does not depend on the epoch.

    Attributes:
        ce_weight: Weight of cross-entropy, at least 0.
        alpha: Weight of TCKD, at least 0.
        beta: Weight of NCKD, at least 0. The code uses 8 by default and for ResNet-32x4 to ResNet-8x4 and ResNet-50
            to MobileNetV2, 6 for WRN-40-2 to WRN-40-1, and 2 for ResNet-56 to ResNet-20.
        tau: Temperature of both softmaxes, above 0.
    """

    ce_weight: float = number(1.0, at_least=0)
    alpha: float = number(1.0, at_least=0)
    beta: float = number(8.0, at_least=0)
    tau: float = number(4.0, above=0)

    def forward(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.forward`."""
        student_odds_N, student_NR = _decouple(soften(distilled_NC, self.tau), target_N)
        teacher_odds_N, teacher_NR = _decouple(teacher.log_probabilities(self.tau, self.standardizes_teacher), target_N)
        cross_entropy = functional.cross_entropy(student_NC, target_N)
        tckd_N = _binary_divergence(teacher_odds_N, student_odds_N)
        nckd_N = (teacher_NR.exp() * (teacher_NR - student_NR)).sum(dim=1)
        distillation = self.alpha * tckd_N.mean() + self.beta * nckd_N.mean()
        return self.ce_weight * cross_entropy + self.tau**2 * distillation


def _decouple(softened_NC: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's log odds against all other classes (N,), and log-probabilities among the others (N, R).

    Log odds keep their digits however close to 0 or 1 the probability is. They are finite for finite logits, so that
    a probability which underflows to 0 contributes 0, never NaN.
    """
    label_N1 = target_N.unsqueeze(1)
    position_R = torch.arange(softened_NC.shape[1] - 1, device=softened_NC.device)
    others_NR = softened_NC.gather(1, position_R + (position_R >= label_N1))
    log_sum_N1 = others_NR.logsumexp(dim=1, keepdim=True)
    log_odds_N = (softened_NC.gather(1, label_N1) - log_sum_N1).squeeze(1)
    return log_odds_N, others_NR - log_sum_N1


def _binary_divergence(teacher_odds_N: Tensor, student_odds_N: Tensor) -> Tensor:
    """Return KL(teacher || student) of two Bernoulli distributions, given by their log odds (N,)."""
    label_N = functional.logsigmoid(teacher_odds_N) - functional.logsigmoid(student_odds_N)
    others_N = functional.logsigmoid(-teacher_odds_N) - functional.logsigmoid(-student_odds_N)
    return torch.sigmoid(teacher_odds_N) * label_N + torch.sigmoid(-teacher_odds_N) * others_N
