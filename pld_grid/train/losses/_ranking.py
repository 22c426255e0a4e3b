"""The teacher-optimal permutation (paper, section 4.1): the sort that takes most of PLD's time.

Shape suffixes: N samples of the micro-batch, C classes.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._row_blocks import row_blocks

# From this many logits on, a CPU sorts packed integers faster than floats.
_MIN_PACKED_LOGITS = 1 << 12

# With fewer, our threads wait for torch's, which spin for milliseconds after their last work.
_MIN_THREADED_LOGITS = 1 << 20


def rank_classes(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """Return class indices (N, C): the label, then the other classes by descending logit, ties by class index.

    Args:
        logits_NC: Detached float32 or float64 logits.
        target_N: int64 labels in [0, C).

    Raises:
        IndexError or RuntimeError: A label is out of range.
    """
    packable = logits_NC.device.type == "cpu" and logits_NC.dtype == torch.float32
    large = logits_NC.numel() >= _MIN_PACKED_LOGITS
    if packable and large and not torch.compiler.is_compiling():
        return _rank_packed(logits_NC, target_N)
    lifted_NC = logits_NC.scatter(1, target_N.unsqueeze(1), torch.inf)
    return lifted_NC.sort(dim=1, descending=True, stable=True).indices


def _rank_packed(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """Compute the same ranking with integer sorts by numpy, which uses the CPU's vector instructions.

    numpy sorts in one thread and releases the interpreter's lock meanwhile, so large batches get one thread per block.
    """
    if target_N.min() < 0:
        raise IndexError("labels must not be negative")  # numpy would count them from the end
    logits, target = logits_NC.numpy(), target_N.numpy()
    ranking = np.empty(logits.shape, np.int64)

    def rank_block(rows: slice) -> None:
        _rank_rows(logits[rows], target[rows], ranking[rows])

    blocks = row_blocks(*logits_NC.shape)
    threads = min(torch.get_num_threads(), len(blocks)) if logits.size >= _MIN_THREADED_LOGITS else 1
    if threads == 1:
        for rows in blocks:
            rank_block(rows)
    else:
        # A pool per call, because a lasting one would not survive a fork; list() re-raises a block's error.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(rank_block, blocks))
    return torch.from_numpy(ranking)


def _rank_rows(
    logits_NC: npt.NDArray[np.float32], target_N: npt.NDArray[np.int64], ranking_NC: npt.NDArray[np.int64]
) -> None:
    """Write the ranking of a few rows into ``ranking_NC``.

    Each int64 holds a sort key in its high 32 bits and the class in its low ones. All are different, so the sort need
    not be stable, and the sorted values contain the classes.
    """
    # Subtracting from 0.0 rather than negating gives -0.0 and 0.0 the same bits, hence a tie.
    bits_NC = (np.float32(0) - logits_NC).view(np.int32)
    # Flipping the magnitude of negative numbers makes integer order equal float order.
    key_NC = bits_NC >> 31
    key_NC &= 0x7FFFFFFF
    key_NC ^= bits_NC
    key_NC[np.arange(len(target_N)), target_N] = np.iinfo(np.int32).min
    np.left_shift(key_NC, 32, out=ranking_NC, dtype=np.int64)
    ranking_NC |= np.arange(ranking_NC.shape[1])
    ranking_NC.sort(axis=1)
    ranking_NC &= 0xFFFFFFFF
