"""Load an epoch's micro-batches with torch's DataLoader, scattered over the processes of a group.

Batches depend on (seed, epoch, sample index) alone, never on the number of loader processes.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pld_grid.experiment.cell import Cell, Recipe
from pld_grid.train import data
from pld_grid.train.data._split import DataError, Indices, Split, Splits
from pld_grid.train.randomness import epoch_order
from pld_grid.train.run_context import RunContext

# Epoch and sample indices of one micro-batch.
BatchKey = tuple[int, Indices]
# Images (N, C, H, W) uint8 and labels (N,) int64.
Batch = tuple[Tensor, Tensor]
T = TypeVar("T")


class LoaderWorkerDied(Exception):
    """A process of the data loader was killed; the cohort can continue from its checkpoint."""


class _BatchDataset(Dataset[Batch]):
    """Map the key of a micro-batch to the whole micro-batch."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed

    def __getitem__(self, key: BatchKey) -> Batch:
        epoch, indices = key
        return self.split.batch(indices, self.seed, epoch)


class Loader:
    """Load the micro-batches of both splits.

    Args:
        splits: training and validation images.
        recipe: gives the batch and micro-batch size.
        seed: of the data order and the augmentation.
        workers: loader processes; 0 loads in the calling process. Changes the speed, never a number.
        prefetch: batches that each loader process loads ahead.
        pin: use page-locked memory, for overlapped copies to a GPU.
        rank: rank of this process in its group.
        size: processes in the group. Each loads an equal, contiguous part of every update's micro-batches, and every
            `size`-th validation batch.
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
        assert self.accumulation % size == 0, "the processes cannot have equally many micro-batches of an update"
        self.local_micro_batches = self.accumulation // size  # of this process, per update
        self._train, self._validation = (
            DataLoader(
                _BatchDataset(split, seed),
                batch_size=None,
                sampler=list[BatchKey](),  # refilled for each pass over the split
                num_workers=workers,
                prefetch_factor=prefetch if workers else None,
                persistent_workers=workers > 0,
                pin_memory=pin,
            )
            for split in (splits.train, splits.validation)
        )

    def check_fills_a_batch(self, dataset: str) -> None:
        """Raise DataError if an epoch would have no update."""
        if self.updates_per_epoch == 0:
            raise DataError(
                f"dataset {dataset}: {self.train_size} training images do not fill one batch of "
                f"{self.recipe.batch_size}"
            )

    @property
    def micro_batch_numbers(self) -> list[int]:
        """The numbers of this process's training micro-batches within an epoch; the same in every epoch."""
        starts = range(
            self.rank * self.local_micro_batches, self.updates_per_epoch * self.accumulation, self.accumulation
        )
        return [number for start in starts for number in range(start, start + self.local_micro_batches)]

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the training micro-batches `micro_batch_numbers` of an epoch; an incomplete last batch is dropped."""
        order = epoch_order(self.seed, epoch, self.train_size)
        used = order[: self.updates_per_epoch * self.recipe.batch_size]
        batches = used.reshape(-1, self.recipe.micro_batch_size)
        return self._load(self._train, [(epoch, batches[number]) for number in self.micro_batch_numbers])

    @property
    def num_validation_batches(self) -> int:
        """The number of this process's validation batches."""
        size = self.recipe.micro_batch_size
        return len(range(self.rank * size, self.validation_size, self.size * size))

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this process's batches of the validation set, unshuffled; the last may be smaller."""
        size = self.recipe.micro_batch_size
        order = np.arange(self.validation_size)
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        return self._load(self._validation, [(0, indices) for indices in batches[self.rank :: self.size]])

    def _load(self, loader: DataLoader[Batch], keys: list[BatchKey]) -> Iterator[Batch]:
        """Yield the batches of these keys, in their order. Raise LoaderWorkerDied if a loader process was killed."""
        assert isinstance(loader.sampler, list)
        loader.sampler[:] = keys
        try:
            yield from loader
        except Exception as error:
            if self._worker_died(error):
                raise LoaderWorkerDied(f"a data loader process was killed ({type(error).__name__})") from error
            raise

    def _worker_died(self, error: Exception) -> bool:
        """Return whether an error of a DataLoader means that a process was killed: torch raises many types for it."""
        raised_by_worker = isinstance(error, DataError) or "in DataLoader worker process" in str(error)
        if self._train.num_workers == 0 or raised_by_worker:
            return False
        if isinstance(error, ConnectionError | EOFError):
            return True
        iterators = [loader._iterator for loader in (self._train, self._validation) if loader._iterator is not None]
        workers = [worker for iterator in iterators for worker in getattr(iterator, "_workers", ())]
        for worker in workers:
            # The error may arrive before the process has ended.
            worker.join(2)
        return any(not worker.is_alive() for worker in workers)


def build_loader(cell: Cell, context: RunContext, device: torch.device, rank: int = 0, size: int = 1) -> Loader:
    """Load a cell's dataset and return the loader of its batches.

    Args:
        cell: gives dataset, recipe and seed.
        context: gives the data folder and the loader processes.
        device: that the batches are for.
        rank: rank of this process in its group.
        size: processes in the group.

    Raises:
        DataError: the dataset is missing or damaged.
    """
    folder, machine = context.data_folder, context.machine
    return Loader(
        data.load(cell.dataset, cell.recipe, Path(folder) if folder else None),
        cell.recipe,
        cell.seed,
        workers=machine.loader_workers,
        prefetch=machine.prefetch_batches,
        pin=device.type == "cuda",
        rank=rank,
        size=size,
    )


def on_device(batches: Iterable[Batch], device: torch.device, *, channels_last: bool = False) -> Iterator[Batch]:
    """Yield the same batches on a device, in the same order.

    On a GPU each batch is copied on a side stream while the previous one is trained on, if the loader pins its memory.
    Each batch belongs to the stream that is current when it is requested.

    Args:
        batches: on the CPU.
        device: to copy them to.
        channels_last: store the pixels in channels-last order.
    """

    def place(batch: Batch) -> Batch:
        # Asynchronous from pinned memory.
        pixels_NCHW, target_N = (tensor.to(device, non_blocking=True) for tensor in batch)
        if channels_last:
            pixels_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
        return pixels_NCHW, target_N

    if device.type != "cuda":
        return map(place, batches)
    copy = _SideStreamCopy(device, place)
    return _prefetch_one(batches, copy.start, copy.finish)


def _prefetch_one(
    batches: Iterable[Batch], start: Callable[[Batch], T], finish: Callable[[T], Batch]
) -> Iterator[Batch]:
    """Yield each batch after the copy of the next one has started."""
    pending: list[T] = []
    for batch in batches:
        pending.append(start(batch))
        if len(pending) == 2:
            yield finish(pending.pop(0))
    for last in pending:
        yield finish(last)


class _SideStreamCopy:
    """Copies batches on a CUDA stream of its own, beside the one that computes."""

    def __init__(self, device: torch.device, place: Callable[[Batch], Batch]) -> None:
        self.device, self.place = device, place
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(self.stream):
            placed = self.place(batch)
            # An event rather than the stream, as the next copy starts there before this batch is used.
            return placed, self.stream.record_event()

    def finish(self, pending: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, copied = pending
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(copied)
        for tensor in batch:
            # Allocated on the side stream, which must not reuse the memory before the computation has finished.
            tensor.record_stream(computing)
        return batch
