"""Logit standardization (paper, Appendix F; Sun et al. 2024).

Shape suffixes: N samples of the micro-batch, C classes.
"""

from torch import Tensor

_EPSILON = 1e-7


def standardize(logits_NC: Tensor) -> Tensor:
    """The z-scores of each sample's logits over its classes, shape (N, C).

    z = (x - mean) / (std + 1e-7), std with C - 1. Differentiable; C >= 2.
    """
    deviation_N1 = logits_NC.std(dim=1, keepdim=True, correction=1)
    return (logits_NC - logits_NC.mean(dim=1, keepdim=True)) / (deviation_N1 + _EPSILON)
