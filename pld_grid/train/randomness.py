"""Counter-based random numbers: a draw depends on its purpose, never on earlier draws.

Data order and augmentation depend on (seed, epoch, sample index) alone, initial weights on (seed, architecture),
dropout on (seed, epoch, micro-batch). Resuming needs no generator state, and the number of workers, the cohort and the
loss cannot change a draw. SplitMix64 (Steele et al., 2014) is used directly because library
generators do not promise equal streams across versions.
"""

import hashlib

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def derive(*parts: object) -> int:
    """Derive a 63-bit seed from any values."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def _mix(values: U64) -> U64:
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX1
    values = (values ^ (values >> np.uint64(27))) * _MIX2
    return values ^ (values >> np.uint64(31))


def _hash(key: int, indices: npt.ArrayLike) -> U64:
    with np.errstate(over="ignore"):
        return _mix(_mix(np.asarray(indices, dtype=np.uint64)) ^ np.uint64(key))


def epoch_order(seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """Return the order of the training images in an epoch: a permutation of 0 .. size - 1."""
    return np.argsort(_hash(derive("order", seed, epoch), np.arange(size)), kind="stable")


def uniforms(seed: int, epoch: int, indices: npt.ArrayLike, draws: int) -> npt.NDArray[np.float64]:
    """Draw uniform numbers in [0, 1) for the augmentation of samples.

    Args:
        seed: of the cell.
        epoch: from 1.
        indices: sample indices in the training set, shape (N,).
        draws: numbers per sample, D.

    Returns:
        Shape (N, D); row n depends on (seed, epoch, indices[n]) alone.
    """
    columns = [_hash(derive("augment", seed, epoch, draw), indices) for draw in range(draws)]
    return np.stack(columns, axis=-1).astype(np.uint64).__rshift__(np.uint64(11)).astype(np.float64) * 2.0**-53
