"""The teacher's side of a batch, computed once for all students of a cohort.

Shape suffixes: N samples of the micro-batch, C classes.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._logits import check_batch, soften, standardize, to_working_precision
from ._ranking import rank_classes

T = TypeVar("T")


class TeacherBatch:
    """A teacher's logits for one batch, and a cache of the values that losses derive from them.

    Pass the same object to every student's loss: softmaxes and the ranking are computed on first use, and only once.
    All values are detached, in float32 (float64 for float64 logits).

    Args:
        logits_NC: The teacher's raw logits, C >= 2.
        target_N: The labels, integers in [0, C).

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """

    def __init__(self, logits_NC: Tensor, target_N: Tensor) -> None:
        check_batch("teacher", logits_NC, target_N)
        self.logits_NC = to_working_precision(logits_NC.detach())
        self.target_N = target_N
        self._cache: dict[Hashable, Any] = {}

    def check_target(self, target_N: Tensor) -> None:
        """Raise ValueError if the labels are not those of this batch."""
        if target_N is self.target_N or torch.compiler.is_compiling():
            return
        if not torch.equal(target_N, self.target_N):
            raise ValueError("the labels are not those of this TeacherBatch")

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return ``compute()`` of the first call with this key."""
        if key not in self._cache:
            self._cache[key] = compute()
        value: T = self._cache[key]
        return value

    def logits(self, standardized: bool) -> Tensor:
        """Return the logits, raw or standardized; (N, C)."""
        return self.cached("standardized", lambda: standardize(self.logits_NC)) if standardized else self.logits_NC

    def probabilities(self, tau: float, standardized: bool) -> Tensor:
        """Return softmax(t / tau), t being raw or standardized; (N, C)."""
        key = ("probabilities", tau, standardized)
        return self.cached(key, lambda: torch.softmax(soften(self.logits(standardized), tau), dim=1))

    def log_probabilities(self, tau: float, standardized: bool) -> Tensor:
        """Return log softmax(t / tau), t being raw or standardized; (N, C), in nats."""
        key = ("log_probabilities", tau, standardized)
        return self.cached(key, lambda: torch.log_softmax(soften(self.logits(standardized), tau), dim=1))

    def ranking(self) -> Tensor:
        """Return the teacher-optimal permutation pi* (paper, section 4.1); (N, C) class indices.

        The label comes first, then the other classes by descending raw logit, ties by class index.
        """
        return self.cached("ranking", lambda: rank_classes(self.logits_NC, self.target_N.long()))
