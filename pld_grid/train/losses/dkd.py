"""DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022), of the later edition's CIFAR-100 table.

Shape suffixes: N samples of the micro-batch, C classes, R = C - 1 classes other than the label.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ._base import DistillationLoss
from ._hyperparameter import number
from ._teacher import TeacherBatch, soften


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoupledDistillation(DistillationLoss):
    """ce_weight * CE + tau^2 * (alpha * TCKD + beta * NCKD), with q = softmax(logits / tau).

    KD's KL(q_t || q_s) is TCKD + (1 - q_t(label)) * NCKD: TCKD is the divergence of the label's probability against all
    others' together, NCKD that of the distributions over the other classes alone. DKD weighs the two apart, so that
    NCKD no longer fades where the teacher is sure. Both are summed over their classes and averaged over the batch.

    The publication's formula is alpha * TCKD + beta * NCKD; its code adds cross-entropy with weight 1 and scales by
    tau^2, as here. The code takes the label out of NCKD by subtracting 1000 from its softened logit, which leaves the
    same distributions up to rounding, and takes TCKD's logarithms of probabilities without an epsilon: one that
    underflows to 0 makes the loss infinite there, and not here. It also multiplies the whole distillation term by
    min(epoch / 20, 1), epochs counted from 1: that warm-up is no part of this loss, which does not know the epoch.

    Attributes:
        ce_weight: the weight of cross-entropy, at least 0.
        alpha: the weight of TCKD, at least 0.
        beta: the weight of NCKD, at least 0. The code has 8 by default and for ResNet-32x4 to ResNet-8x4 and ResNet-50
            to MobileNetV2, 6 for WRN-40-2 to WRN-40-1, and 2 for ResNet-56 to ResNet-20.
        tau: the temperature of both softmaxes, above 0.
    """

    ce_weight: float = number(1.0, at_least=0)
    alpha: float = number(1.0, at_least=0)
    beta: float = number(8.0, at_least=0)
    tau: float = number(4.0, above=0)

    def formula(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.formula`."""
        student_N, student_NR = _decouple(soften(distilled_NC, self.tau), target_N)
        teacher_N, teacher_NR = _decouple(teacher.log_probabilities(self.tau, self.standardizes_teacher), target_N)
        cross_entropy = functional.cross_entropy(student_NC, target_N)
        label_alone = _binary_divergence(teacher_N, student_N)
        others = (teacher_NR.exp() * (teacher_NR - student_NR)).sum(dim=1)
        distillation = self.alpha * label_alone.mean() + self.beta * others.mean()
        return self.ce_weight * cross_entropy + self.tau**2 * distillation


def _decouple(softened_NC: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """The label's log odds against all others (N,), and the log-probabilities among the others (N, R).

    Log odds rather than a probability: they keep their digits however close to 0 or 1 it is. Finite logits give finite
    values, so that a probability which underflows to 0 contributes 0, never NaN.
    """
    label_N1 = target_N.unsqueeze(1)
    place_R = torch.arange(softened_NC.shape[1] - 1, device=softened_NC.device)
    others_NR = softened_NC.gather(1, place_R + (place_R >= label_N1))
    log_sum_N1 = others_NR.logsumexp(dim=1, keepdim=True)
    log_odds_N = (softened_NC.gather(1, label_N1) - log_sum_N1).squeeze(1)
    return log_odds_N, others_NR - log_sum_N1


def _binary_divergence(teacher_N: Tensor, student_N: Tensor) -> Tensor:
    """KL between two choices of two, given by their log odds (N,)."""
    label_N = functional.logsigmoid(teacher_N) - functional.logsigmoid(student_N)
    rest_N = functional.logsigmoid(-teacher_N) - functional.logsigmoid(-student_N)
    return torch.sigmoid(teacher_N) * label_N + torch.sigmoid(-teacher_N) * rest_N
