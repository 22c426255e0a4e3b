"""PLD: Plackett-Luce distillation (paper, section 4.2, Appendices A and C).

Shape suffixes: N samples of the micro-batch, C classes. Column k of a "ranked" tensor belongs to the class at rank k of
the teacher-optimal permutation pi*; a leading 1 instead of N means the same weights for every sample.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._base import DistillationLoss
from ._hyperparameters import choice, number
from ._row_blocks import row_blocks
from ._teacher_batch import TeacherBatch

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

# If a row's logits span no more than this, exp, its suffix sums and their reciprocals all stay within float64's range,
# which ends at exp(709).
_MAX_DIRECT_SPREAD_NATS = 600.0


def _teacher_weights(teacher: TeacherBatch, tau: float, standardized: bool, log: bool) -> Tensor:
    """Return a_k = q_t at the class of rank k (paper, section 4.2); (N, C)."""
    probabilities = teacher.log_probabilities if log else teacher.probabilities
    return teacher.cached(
        ("ranked", log, tau, standardized), lambda: probabilities(tau, standardized).gather(1, teacher.ranking())
    )


def _uniform_weights(teacher: TeacherBatch, tau: float, standardized: bool, log: bool) -> Tensor:
    """Return a_k = 1 / C (ListMLE); (1, C)."""
    classes = teacher.logits_NC.shape[1]
    weight = -math.log(classes) if log else 1 / classes
    return teacher.logits_NC.new_full((1, classes), weight, dtype=torch.float64)


def _position_weights(teacher: TeacherBatch, tau: float, standardized: bool, log: bool) -> Tensor:
    """Return a_k proportional to 2^(C - k) - 1, with sum 1 (pListMLE); (1, C).

    Dividing by 2^C leaves powers that can underflow but not overflow: 2^-k - 2^-C.
    """
    classes = teacher.logits_NC.shape[1]
    rank_C = torch.arange(1, classes + 1, dtype=torch.float64, device=teacher.logits_NC.device)
    log_C = torch.log1p(-torch.exp2(rank_C - classes)) - rank_C * math.log(2)
    log_1C = torch.log_softmax(log_C, dim=0).unsqueeze(0)
    return log_1C if log else log_1C.exp()


# Each returns the ranked weights a_k, or with `log` their logarithms.
_WEIGHTS = {"teacher": _teacher_weights, "uniform": _uniform_weights, "position": _position_weights}


@dataclass(frozen=True, kw_only=True, eq=False)
class PlackettLuceDistillation(DistillationLoss):
    """sum_k a_k * (logsumexp of s over pi_k..pi_C - s_{pi_k}), averaged over the batch.

    pi is the teacher-optimal permutation: the label, then the other classes by descending raw teacher logit.
    Standardizing the teacher changes only the weights, never the ranking.

    Attributes:
        tau: Temperature of the teacher's softmax in the weights, above 0.
        weights: ``teacher`` a_k = softmax(t / tau) at pi_k (PLD); ``uniform`` a_k = 1 / C (ListMLE); ``position``
            a_k proportional to 2^(C - k) - 1 (pListMLE).
    """

    tau: float = number(1.0, above=0)
    weights: str = choice("teacher", among=_WEIGHTS)

    def forward(self, student_NC: Tensor, distilled_NC: Tensor, teacher: TeacherBatch, target_N: Tensor) -> Tensor:
        """See :meth:`DistillationLoss.forward`."""
        log_space = not _has_moderate_spread(distilled_NC.detach())
        weight_NC = _WEIGHTS[self.weights](teacher, self.tau, self.standardizes_teacher, log_space)
        loss: Tensor = _PlackettLuce.apply(distilled_NC, teacher.ranking(), weight_NC, log_space)
        return loss


class _PlackettLuce(torch.autograd.Function):
    """The weighted likelihood with the closed-form gradient of Appendix A.

    dL/ds_i = exp(s_i) * sum_{k <= pos(i)} a_k / S_k - a_pos(i), S_k being the suffix sum of exp(s). Loss and gradient
    share their suffix sums, so the forward pass computes both.
    """

    @staticmethod
    def forward(ctx: Any, student_NC: Tensor, ranking_NC: Tensor, weight_NC: Tensor, log_space: bool) -> Tensor:
        evaluate = _evaluate_in_log_space if log_space else _evaluate_directly
        by_class_NC = torch.empty_like(student_NC)
        losses = []
        for rows in _choose_row_blocks(student_NC):
            block_NC, rank_NC = student_NC[rows], ranking_NC[rows]
            # In float64, because float32 suffix sums of a thousand classes lose more digits than they keep.
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


def _evaluate_directly(ranked_NC: Tensor, weight_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss per sample (N,) and its ranked gradient (N, C), for shifted float64 logits in [-600, 0].

    In place where possible, because fresh memory of this size costs more than the arithmetic.
    """
    exp_NC = ranked_NC.exp()
    suffix_NC = exp_NC.flip(1).cumsum_(1).flip(1)
    loss_N = suffix_NC.log().sub_(ranked_NC).mul_(weight_NC).sum(1)
    gradient_NC = suffix_NC.reciprocal_().mul_(weight_NC).cumsum_(1)
    return loss_N, gradient_NC.mul_(exp_NC).sub_(weight_NC)


def _evaluate_in_log_space(ranked_NC: Tensor, log_weight_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same for shifted logits of any size: only small numbers are exponentiated."""
    weight_NC = log_weight_NC.exp()
    log_suffix_NC = ranked_NC.flip(1).logcumsumexp(1).flip(1)
    loss_N = ((log_suffix_NC - ranked_NC) * weight_NC).sum(1)
    log_ratio_NC = torch.logcumsumexp(log_weight_NC - log_suffix_NC, dim=1)
    return loss_N, (ranked_NC + log_ratio_NC).exp() - weight_NC


def _choose_row_blocks(student_NC: Tensor) -> list[slice]:
    """Return the rows to process at once: as many as a CPU's caches hold, and all of them on other devices."""
    # A compiled graph would contain every block's operations, one after another.
    if torch.compiler.is_compiling() or student_NC.device.type != "cpu":
        return [slice(None)]
    rows, classes = student_NC.shape
    return row_blocks(rows, classes, torch.get_num_threads())


def _has_moderate_spread(student_NC: Tensor) -> bool:
    """Return whether plain exponentials are safe; false for NaN and infinity."""
    # Reading values would break a compiled graph, and stall an accelerator's queue.
    if torch.compiler.is_compiling() or student_NC.device.type != "cpu":
        return False
    spread_N = student_NC.amax(dim=1) - student_NC.amin(dim=1)
    return bool(spread_N.max() <= _MAX_DIRECT_SPREAD_NATS)
