"""Operations on logits that all losses share: checks, precision, temperature, standardization.

Shape suffixes: N samples of the micro-batch, C classes.
"""

import torch
from torch import Tensor

# Added to the standard deviation, so that constant logits do not divide by zero.
_EPSILON = 1e-7


def check_batch(model: str, logits_NC: Tensor, target_N: Tensor) -> None:
    """Check the logits of a model ("student" or "teacher") and the labels.

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    shape = tuple(logits_NC.shape)
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2 or not logits_NC.is_floating_point():
        raise ValueError(f"{model} logits must be floating point (N >= 1, C >= 2), got {shape} of {logits_NC.dtype}")
    if target_N.shape != logits_NC.shape[:1] or target_N.is_floating_point():
        raise ValueError(f"target must be {shape[0]} integer labels, got {tuple(target_N.shape)} of {target_N.dtype}")


def to_working_precision(logits_NC: Tensor) -> Tensor:
    """Convert logits to float32; float64 stays float64."""
    return logits_NC if logits_NC.dtype == torch.float64 else logits_NC.float()


def soften(logits_NC: Tensor, tau: float) -> Tensor:
    """Divide logits by a temperature, up to a constant per sample, for use in a softmax.

    The largest logit is subtracted before the division: afterwards, the rounding of large quotients would become a
    relative error of the probabilities.
    """
    return (logits_NC - logits_NC.detach().amax(dim=1, keepdim=True)) / tau


def standardize(logits_NC: Tensor) -> Tensor:
    """Return the z-scores of each sample's logits over its classes (paper, Appendix F; Sun et al. 2024).

    z = (x - mean) / (std + 1e-7), with C - 1 in the standard deviation. Differentiable; C >= 2.
    """
    deviation_N1 = logits_NC.std(dim=1, keepdim=True, correction=1)
    return (logits_NC - logits_NC.mean(dim=1, keepdim=True)) / (deviation_N1 + _EPSILON)
