"""The teacher's side of a batch, computed once for all the students of a cohort.

Shape suffixes: N samples of the micro-batch, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ._ranking import rank
from ._standardize import standardize

Kept = TypeVar("Kept")


class Centred(NamedTuple):
    """Probabilities minus their mean along one dimension, and their norms along it."""

    values_NC: Tensor
    norms: Tensor


def in_working_precision(logits_NC: Tensor) -> Tensor:
    """float64 stays; everything else becomes float32."""
    return logits_NC if logits_NC.dtype == torch.float64 else logits_NC.float()


def soften(logits_NC: Tensor, tau: float) -> Tensor:
    """Logits over a temperature, up to a constant per sample, for use in a softmax.

    The largest logit is taken off before the division: afterwards, the division's rounding of
    large logits would turn into a relative error of the probabilities.
    """
    return (logits_NC - logits_NC.detach().amax(dim=1, keepdim=True)) / tau


def centre(values_NC: Tensor, dim: int) -> Centred:
    """What a Pearson correlation along ``dim`` needs of one of its two sides."""
    centred_NC = values_NC - values_NC.mean(dim=dim, keepdim=True)
    return Centred(centred_NC, torch.linalg.vector_norm(centred_NC, dim=dim))


class TeacherBatch:
    """A teacher's logits for one batch, with a memory of what losses derive from them.

    Give the same object to every student's loss: softmaxes and the ranking are computed on first
    use, and only once. Everything is detached and float32 (float64 for float64 logits).

    Args:
        logits_NC: the teacher's raw logits, C >= 2.
        target_N: the labels, integers in [0, C).

    Raises:
        ValueError: shapes or dtypes do not fit.
    """

    def __init__(self, logits_NC: Tensor, target_N: Tensor) -> None:
        if logits_NC.dim() != 2 or logits_NC.shape[1] < 2 or not logits_NC.is_floating_point():
            raise ValueError(
                f"teacher logits must be floating point (N, C >= 2), got {tuple(logits_NC.shape)} of {logits_NC.dtype}"
            )
        if target_N.shape != logits_NC.shape[:1] or target_N.is_floating_point():
            raise ValueError(
                f"target must be {logits_NC.shape[0]} integer labels, got {tuple(target_N.shape)} of {target_N.dtype}"
            )
        self.logits_NC = in_working_precision(logits_NC.detach())
        self.target_N = target_N
        self._memory: dict[tuple[str | float, ...], Any] = {}

    def require_target(self, target_N: Tensor) -> None:
        """Refuse labels other than this batch's (ValueError)."""
        if target_N is self.target_N or torch.compiler.is_compiling():
            return
        if not torch.equal(target_N, self.target_N):
            raise ValueError("the labels are not those that this TeacherBatch was made with")

    def probabilities(self, tau: float, standardized: bool) -> Tensor:
        """softmax(t / tau), or of the standardized t; (N, C)."""
        return self._remember(
            ("probabilities", tau, standardized),
            lambda: torch.softmax(soften(self._logits(standardized), tau), dim=1),
        )

    def log_probabilities(self, tau: float, standardized: bool) -> Tensor:
        """log softmax(t / tau), or of the standardized t; (N, C), in nats."""
        return self._remember(
            ("log_probabilities", tau, standardized),
            lambda: torch.log_softmax(soften(self._logits(standardized), tau), dim=1),
        )

    def centred_probabilities(self, tau: float, standardized: bool, dim: int) -> Centred:
        """Probabilities centred along a dimension, with their norms (DIST)."""
        return self._remember(
            ("centred_probabilities", tau, standardized, dim),
            lambda: centre(self.probabilities(tau, standardized), dim),
        )

    def ranking(self) -> Tensor:
        """The teacher-optimal permutation pi* (paper, section 4.1); (N, C) class indices.

        The label first, then the other classes by descending raw logit, ties by class index.
        """
        return self._remember(("ranking",), lambda: rank(self.logits_NC, self.target_N.long()))

    def ranked_probabilities(self, tau: float, standardized: bool) -> Tensor:
        """Column k holds the probability of the class at rank k; (N, C)."""
        return self._remember(
            ("ranked_probabilities", tau, standardized),
            lambda: self.probabilities(tau, standardized).gather(1, self.ranking()),
        )

    def ranked_log_probabilities(self, tau: float, standardized: bool) -> Tensor:
        """Column k holds the log probability of the class at rank k; (N, C), in nats."""
        return self._remember(
            ("ranked_log_probabilities", tau, standardized),
            lambda: self.log_probabilities(tau, standardized).gather(1, self.ranking()),
        )

    def _logits(self, standardized: bool) -> Tensor:
        if not standardized:
            return self.logits_NC
        return self._remember(("standardized",), lambda: standardize(self.logits_NC))

    def _remember(self, key: tuple[str | float, ...], compute: Callable[[], Kept]) -> Kept:
        if key not in self._memory:
            self._memory[key] = compute()
        kept: Kept = self._memory[key]
        return kept
