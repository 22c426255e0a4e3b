"""Micro-batches of an epoch, the same whatever the number of workers."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pld_grid.spec import Recipe
from pld_grid.train.data._split import Indices, Split, Splits
from pld_grid.train.randomness import epoch_order

Key = tuple[int, Indices]


class _Keys(Sampler[Key]):
    """The micro-batches of the epoch that is set; read in the main process."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: list[Indices] = []

    def __iter__(self) -> Iterator[Key]:
        return ((self.epoch, indices) for indices in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Makes a whole micro-batch per key, in whichever process asks."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, indices = key
        return self.split.batch(indices, self.seed, epoch)


class Loader:
    """Streams micro-batches of both splits.

    Args:
        workers: loader processes; 0 loads in the caller. Changes speed, never a number.
        pin: page-locked memory, for overlapped copies to a GPU.
    """

    def __init__(
        self, splits: Splits, recipe: Recipe, seed: int, *, workers: int = 0, prefetch: int = 2, pin: bool = False
    ) -> None:
        self.recipe, self.seed = recipe, seed
        self.train_size, self.validation_size = len(splits.train), len(splits.validation)
        self.updates_per_epoch = self.train_size // recipe.batch_size
        self.accumulation = recipe.batch_size // recipe.micro_batch_size
        self._keys: dict[bool, _Keys] = {}
        self._loaders: dict[bool, DataLoader[tuple[Tensor, Tensor]]] = {}
        for training, split in ((True, splits.train), (False, splits.validation)):
            self._keys[training] = _Keys()
            self._loaders[training] = DataLoader(
                _Batches(split, seed),
                batch_size=None,
                sampler=self._keys[training],
                num_workers=workers,
                prefetch_factor=prefetch if workers else None,
                persistent_workers=workers > 0,
                pin_memory=pin,
            )

    def train(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training micro-batches of an epoch; images that do not fill a batch are left out."""
        order = epoch_order(self.seed, epoch, self.train_size)
        used = order[: self.updates_per_epoch * self.recipe.batch_size]
        self._keys[True].epoch = epoch
        self._keys[True].batches = list(used.reshape(-1, self.recipe.micro_batch_size))
        return iter(self._loaders[True])

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole validation set in its own order; the last batch may be smaller."""
        size = self.recipe.micro_batch_size
        order = np.arange(self.validation_size)
        self._keys[False].batches = [order[i : i + size] for i in range(0, len(order), size)]
        return iter(self._loaders[False])


def to_device(pixels_NCHW: Tensor, target_N: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copies a batch, overlapping with computation where the memory is pinned."""
    return pixels_NCHW.to(device, non_blocking=True), target_N.to(device, non_blocking=True)
