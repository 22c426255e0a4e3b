"""Micro-batches of an epoch, the same whatever the number of workers, dealt out to the processes of a group."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pld_grid.spec import Recipe
from pld_grid.train.data._split import DataError, Indices, Split, Splits
from pld_grid.train.failure import LoaderDied, loader_died
from pld_grid.train.randomness import epoch_order

logger = logging.getLogger(__name__)

# In a row, of one loader.
LOADER_DEATHS = 3
Key = tuple[int, Indices]
# Images (N, C, H, W) uint8 and labels (N,) int64.
Batch = tuple[Tensor, Tensor]


class _Keys(Sampler[Key]):
    """The micro-batches that are to come; read in the main process."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Batches(Dataset[Batch]):
    """Makes a whole micro-batch per key, in whichever process asks."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed

    def __getitem__(self, key: Key) -> Batch:
        epoch, indices = key
        return self.split.batch(indices, self.seed, epoch)


class _Stream:
    """torch's DataLoader, that outlives its processes: what a killed one owes is asked for again.

    A batch depends on its key alone, so nobody who reads can tell. Raises LoaderDied if processes die again and again
    without a batch between them.
    """

    def __init__(self, batches: _Batches, **options: Any) -> None:
        self._keys, self._batches, self._options = _Keys(), batches, options
        self._loader = self._start()

    def _start(self) -> DataLoader[Batch]:
        return DataLoader(self._batches, batch_size=None, sampler=self._keys, **self._options)

    def read(self, keys: list[Key]) -> Iterator[Batch]:
        """The batches of these keys, in their order."""
        deaths, left = 0, keys
        while left:
            self._keys.keys = left
            try:
                # With processes that stay, this begins by waiting for a word of each.
                for batch in self._loader:
                    left, deaths = left[1:], 0
                    yield batch
            except Exception as error:
                if not (loader_died(error) or self._broken(error)):
                    raise
                if deaths == LOADER_DEATHS:
                    raise LoaderDied(f"a data loader's processes died {deaths + 1} times") from error
                deaths += 1
                logger.warning("a data loader's process died; another takes its place")
                self._loader = self._start()

    def _broken(self, error: Exception) -> bool:
        """Whether a process is lost, for which torch has many errors, such as EOFError."""
        workers = getattr(self._loader._iterator, "_workers", ())
        for worker in workers:
            # The error may be there before the end of the process is.
            worker.join(2)
        if any(not worker.is_alive() for worker in workers):
            return True
        # Of those that were about to start, nobody knows. What their own code raises comes as the text of a traceback.
        pipes = isinstance(error, ConnectionError | EOFError) and not str(error).startswith("Caught ")
        return self._loader.num_workers > 0 and pipes


class Loader:
    """Streams micro-batches of both splits.

    Args:
        workers: loader processes; 0 loads in the caller. Changes speed, never a number.
        pin: page-locked memory, for overlapped copies to a GPU.
        rank: which of the `size` processes of a group this is. Of an update, each has as many micro-batches, one after
            the other; of the validation batches, every `size`-th.
    """

    def __init__(
        self,
        splits: Splits,
        recipe: Recipe,
        seed: int,
        *,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.recipe, self.seed, self.rank, self.size = recipe, seed, rank, size
        self.train_size, self.validation_size = len(splits.train), len(splits.validation)
        self.updates_per_epoch = self.train_size // recipe.batch_size
        self.accumulation = recipe.batch_size // recipe.micro_batch_size
        assert self.accumulation % size == 0, "the micro-batches of an update cannot be dealt out evenly"
        self.share = self.accumulation // size  # micro-batches of an update that are this process's
        self._train, self._validation = (
            _Stream(
                _Batches(split, seed), num_workers=workers, prefetch_factor=prefetch if workers else None,
                persistent_workers=workers > 0, pin_memory=pin,
            )
            for split in (splits.train, splits.validation)
        )  # fmt: skip

    def check_fills_a_batch(self, dataset: str) -> None:
        """Raises DataError if an epoch would have no update."""
        if self.updates_per_epoch == 0:
            raise DataError(
                f"dataset {dataset}: {self.train_size} training images do not fill one batch of "
                f"{self.recipe.batch_size}"
            )

    @property
    def numbers(self) -> list[int]:
        """Which of an epoch's training micro-batches are this process's; they are the same in every epoch."""
        starts = range(self.rank * self.share, self.updates_per_epoch * self.accumulation, self.accumulation)
        return [number for start in starts for number in range(start, start + self.share)]

    def train(self, epoch: int) -> Iterator[Batch]:
        """The training micro-batches `numbers` of an epoch; images that do not fill a batch are left out."""
        order = epoch_order(self.seed, epoch, self.train_size)
        used = order[: self.updates_per_epoch * self.recipe.batch_size]
        batches = used.reshape(-1, self.recipe.micro_batch_size)
        return self._train.read([(epoch, batches[number]) for number in self.numbers])

    @property
    def validation_batches(self) -> int:
        """How many batches of the validation set are this process's."""
        size = self.recipe.micro_batch_size
        return len(range(self.rank * size, self.validation_size, self.size * size))

    def validation(self) -> Iterator[Batch]:
        """The whole validation set in its own order, or this process's batches of it; the last may be smaller."""
        size = self.recipe.micro_batch_size
        order = np.arange(self.validation_size)
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        return self._validation.read([(0, indices) for indices in batches[self.rank :: self.size]])


def to_device(pixels_NCHW: Tensor, target_N: Tensor, device: torch.device) -> Batch:
    """Copies a batch; from pinned memory the caller does not wait for the copy."""
    return pixels_NCHW.to(device, non_blocking=True), target_N.to(device, non_blocking=True)


def on_device(batches: Iterable[Batch], device: torch.device, *, channels_last: bool = False) -> Iterator[Batch]:
    """The same batches on a device, in the same order.

    On a GPU each batch is copied on a stream of its own while the one before is being trained on, which overlaps where
    the loader pins its memory. Each batch belongs to the stream that is current when it is asked for.
    """

    def place(batch: Batch) -> Batch:
        pixels_NCHW, target_N = to_device(*batch, device)
        if channels_last:
            pixels_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
        return pixels_NCHW, target_N

    if device.type != "cuda":
        return map(place, batches)
    return _one_ahead(batches, _SideStream(device, place))


class _Transfer(Protocol):
    """A copy in two halves."""

    def send(self, batch: Batch) -> Any:
        """Starts the copy of a batch; what it returns is given to `receive`."""

    def receive(self, sent: Any) -> Batch:
        """The batch, ready to be computed with."""


def _one_ahead(batches: Iterable[Batch], transfer: _Transfer) -> Iterator[Batch]:
    """Hands out each batch after the next one has been sent."""
    sent: list[Any] = []
    for batch in batches:
        sent.append(transfer.send(batch))
        if len(sent) == 2:
            yield transfer.receive(sent.pop(0))
    for last in sent:
        yield transfer.receive(last)


class _SideStream:
    """Places batches on a CUDA stream of its own, beside the one that computes."""

    def __init__(self, device: torch.device, place: Callable[[Batch], Batch]) -> None:
        self.device, self.place = device, place
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(self.stream):
            placed = self.place(batch)
            # The end of this copy and not of the stream, on which the next copy begins before this batch is used.
            return placed, self.stream.record_event()

    def receive(self, sent: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, copied = sent
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(copied)
        for tensor in batch:
            # Its memory was taken on the side stream, where it must not be reused before the computation is over.
            tensor.record_stream(computing)
        return batch
