"""PLD: Plackett-Luce distillation (paper, section 4.2, Appendices A and C).

Shape suffixes: N samples of the micro-batch, C classes; "ranked" tensors have the class at rank k
of the teacher-optimal permutation in column k.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._base import DistillationLoss
from ._hyperparameter import choice, number
from ._rows import row_blocks
from ._teacher import TeacherBatch

# Within this spread of a row's logits (in nats), exp, its suffix sums and their reciprocals all
# stay inside float64's range, which ends at exp(709).
_PLAIN_SPREAD = 600.0


def _teacher_weights(teacher: TeacherBatch, tau: float, standardized: bool, log: bool) -> Tensor:
    """a_k = q_t at the class of rank k (paper, section 4.2)."""
    if log:
        return teacher.ranked_log_probabilities(tau, standardized)
    return teacher.ranked_probabilities(tau, standardized)


def _uniform_weights(teacher: TeacherBatch, tau: float, standardized: bool, log: bool) -> Tensor:
    """a_k = 1 / C: ListMLE."""
    classes = teacher.logits_NC.shape[1]
    weight = -math.log(classes) if log else 1 / classes
    return teacher.logits_NC.new_full((1, classes), weight, dtype=torch.float64)


def _position_weights(teacher: TeacherBatch, tau: float, standardized: bool, log: bool) -> Tensor:
    """a_k proportional to 2^(C - k) - 1, with sum 1: pListMLE.

    Divided by 2^C, which leaves powers that can underflow but not overflow: 2^-k - 2^-C.
    """
    classes = teacher.logits_NC.shape[1]
    rank_C = torch.arange(1, classes + 1, dtype=torch.float64, device=teacher.logits_NC.device)
    log_C = torch.log1p(-torch.exp2(rank_C - classes)) - rank_C * math.log(2)
    log_1C = torch.log_softmax(log_C, dim=0).unsqueeze(0)
    return log_1C if log else log_1C.exp()


_WEIGHTS = {
    "teacher": _teacher_weights,
    "uniform": _uniform_weights,
    "position": _position_weights,
}


def _plain(ranked_NC: Tensor, weight_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Loss per sample and its gradient, for shifted float64 logits in [-600, 0].

    In place where it can be: at this size, fresh memory costs more than arithmetic.
    """
    exp_NC = ranked_NC.exp()
    suffix_NC = exp_NC.flip(1).cumsum_(1).flip(1)
    loss_N = suffix_NC.log().sub_(ranked_NC).mul_(weight_NC).sum(1)
    gradient_NC = suffix_NC.reciprocal_().mul_(weight_NC).cumsum_(1)
    return loss_N, gradient_NC.mul_(exp_NC).sub_(weight_NC)


def _in_log_space(ranked_NC: Tensor, log_weight_NC: Tensor) -> tuple[Tensor, Tensor]:
    """The same for shifted logits of any size: nothing is exponentiated before it is small."""
    weight_NC = log_weight_NC.exp()
    log_suffix_NC = ranked_NC.flip(1).logcumsumexp(1).flip(1)
    loss_N = ((log_suffix_NC - ranked_NC) * weight_NC).sum(1)
    log_ratio_NC = torch.logcumsumexp(log_weight_NC - log_suffix_NC, dim=1)
    return loss_N, (ranked_NC + log_ratio_NC).exp() - weight_NC


class _PlackettLuce(torch.autograd.Function):
    """The weighted likelihood with the closed-form gradient of Appendix A.

    dL/ds_i = exp(s_i) * sum_{k <= pos(i)} a_k / S_k - a_pos(i), S_k the suffix sum of exp(s).
    Loss and gradient share their suffix sums, so both come out of the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, student_NC: Tensor, ranking_NC: Tensor, weight_NC: Tensor, log_space: bool) -> Tensor:
        evaluate = _in_log_space if log_space else _plain
        by_class_NC = torch.empty_like(student_NC)
        losses = []
        for rows in _blocks(student_NC):
            block_NC, rank_NC = student_NC[rows], ranking_NC[rows]
            # In float64: float32 suffix sums of a thousand classes lose more digits than they keep.
            ranked_NC = block_NC.gather(1, rank_NC).double().sub_(block_NC.amax(dim=1, keepdim=True))
            rank_weight_NC = weight_NC[rows] if len(weight_NC) > 1 else weight_NC
            loss_N, gradient_NC = evaluate(ranked_NC, rank_weight_NC.double())
            by_class_NC[rows].scatter_(1, rank_NC, gradient_NC.to(student_NC.dtype))
            losses.append(loss_N)
        ctx.save_for_backward(by_class_NC)
        return torch.cat(losses).mean().to(student_NC.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_NC,) = ctx.saved_tensors
        return gradient_NC * (outer / gradient_NC.shape[0]), None, None, None


@dataclass(frozen=True, kw_only=True, eq=False)
class PlackettLuceDistillation(DistillationLoss):
    """sum_k a_k * (logsumexp of s over pi_k..pi_C - s_{pi_k}), averaged over the batch.

    pi is the teacher-optimal permutation: the label, then the other classes by descending raw
    teacher logit. Standardizing the teacher changes the weights only, never the ranking.

    Attributes:
        tau: the temperature of the teacher's softmax in the weights, above 0.
        weights: ``teacher`` a_k = softmax(t / tau) at pi_k (PLD); ``uniform`` a_k = 1 / C
            (ListMLE); ``position`` a_k proportional to 2^(C - k) - 1 (pListMLE).
    """

    tau: float = number(1.0, above=0)
    weights: str = choice("teacher", among=_WEIGHTS)

    def formula(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.formula`."""
        log_space = not _spread_is_ordinary(distilled_NC.detach())
        weigh = _WEIGHTS[self.weights]
        weight_NC = weigh(teacher, self.tau, self.standardizes_teacher, log_space)
        ranking_NC = teacher.ranking()
        loss: Tensor = _PlackettLuce.apply(distilled_NC, ranking_NC, weight_NC, log_space)
        return loss


def _blocks(student_NC: Tensor) -> list[slice]:
    """The rows to work on at once: on a CPU as many as its caches hold, elsewhere all of them."""
    # A compiled graph would hold every block's operations, one after another.
    if torch.compiler.is_compiling() or student_NC.device.type != "cpu":
        return [slice(None)]
    rows, classes = student_NC.shape
    return row_blocks(rows, classes, torch.get_num_threads())


def _spread_is_ordinary(student_NC: Tensor) -> bool:
    """Whether plain exponentials are safe. NaN and infinity are not ordinary."""
    # Looking at values would break a compiled graph, and stall an accelerator's queue.
    if torch.compiler.is_compiling() or student_NC.device.type != "cpu":
        return False
    spread_N = student_NC.amax(dim=1) - student_NC.amin(dim=1)
    return bool(spread_N.max() <= _PLAIN_SPREAD)
