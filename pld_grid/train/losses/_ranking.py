"""The teacher-optimal permutation (paper, section 4.1): the sort that PLD spends most of its time on.

Shape suffixes: N samples of the micro-batch, C classes.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._rows import row_blocks

# From this many logits on, sorting packed integers is faster than sorting floats (on a CPU).
_PACKING_PAYS_FROM = 1 << 12

# Below this many, threads of our own wait for torch's, which spin for milliseconds after their last work.
_THREADS_PAY_FROM = 1 << 20


def rank(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """Class indices (N, C): the label, then the other classes by descending logit, ties by class index.

    Args:
        logits_NC: detached float32 or float64 logits.
        target_N: int64 labels in [0, C).

    Raises:
        IndexError or RuntimeError: a label is out of range.
    """
    packable = logits_NC.device.type == "cpu" and logits_NC.dtype == torch.float32
    large = logits_NC.numel() >= _PACKING_PAYS_FROM
    if packable and large and not torch.compiler.is_compiling():
        return _rank_packed(logits_NC, target_N)
    lifted_NC = logits_NC.scatter(1, target_N.unsqueeze(1), torch.inf)
    return lifted_NC.sort(dim=1, descending=True, stable=True).indices


def _rank_packed(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """The same ranking out of integer sorts by numpy, which sorts with the CPU's vector instructions.

    numpy uses one thread and lets go of the interpreter's lock meanwhile, hence the threads here.
    """
    if target_N.min() < 0:
        raise IndexError("labels must not be negative")  # numpy would count them from the end
    logits, target = logits_NC.numpy(), target_N.numpy()
    ranking = np.empty(logits.shape, np.int64)

    def rank_block(rows: slice) -> None:
        _rank_rows(logits[rows], target[rows], ranking[rows])

    samples, classes = logits_NC.shape
    blocks = row_blocks(samples, classes)
    threads = min(torch.get_num_threads(), len(blocks)) if logits.size >= _THREADS_PAY_FROM else 1
    if threads == 1:
        for rows in blocks:
            rank_block(rows)
    else:
        # A pool for each call, as a kept one would not survive a fork; list() raises what a block raised.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(rank_block, blocks))
    return torch.from_numpy(ranking)


def _rank_rows(
    logits_NC: npt.NDArray[np.float32], target_N: npt.NDArray[np.int64], ranking_NC: npt.NDArray[np.int64]
) -> None:
    """Ranks a few rows in place of ``ranking_NC``: key in the high 32 bits, class in the low ones, one sort.

    The keys differ, so the sort need not be stable and its values alone carry the answer.
    """
    # Subtracting from 0.0 rather than negating makes -0.0 and 0.0 the same bits, hence a tie.
    bits_NC = (np.float32(0) - logits_NC).view(np.int32)
    # Flipping the magnitude of the negative ones makes integer order equal float order.
    key_NC = bits_NC >> 31
    key_NC &= 0x7FFFFFFF
    key_NC ^= bits_NC
    key_NC[np.arange(len(target_N)), target_N] = np.iinfo(np.int32).min
    np.left_shift(key_NC, 32, out=ranking_NC, dtype=np.int64)
    ranking_NC |= np.arange(ranking_NC.shape[1])
    ranking_NC.sort(axis=1)
    ranking_NC &= 0xFFFFFFFF
