"""Several processes that train one cohort together, each on its own device.

All run the same code, each on its own micro-batches, and call the same collectives in the same order. A group of one
process calls none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pld_grid.store import RETRY_TIMEOUT_SECONDS, Store
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.failure import TrainingError

T = TypeVar("T")


class GroupBroken(Exception):
    """Another process of the group has exited, so this one cannot continue."""


class Group:
    """The processes that train a cohort, and their collectives, which raise GroupBroken if a process has exited.

    Args:
        rank: of this process, from 0. Only rank 0, the main process, writes to the store and emits events.
        size: number of processes; more than one need torch.distributed's default group.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def from_distributed(cls) -> "Group":
        """Return the group of torch.distributed's default process group."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and emits events."""
        return self.rank == 0

    def open_store(self, uri: str) -> Store:
        """Open the store, read-only except in the main process."""
        return (Store if self.is_main else _ReadOnlyStore)(uri, RETRY_TIMEOUT_SECONDS)

    def abort(self) -> None:
        """Leave the group, so that the other processes raise GroupBroken instead of waiting for this one."""
        if self.size > 1:
            torch.distributed.destroy_process_group()

    def start_allreduce(self, values: Tensor) -> Callable[[], object]:
        """Start to replace values by their sum over the group; the returned function waits until they are."""
        return partial(_collective, _collective(torch.distributed.all_reduce, values, async_op=True).wait)

    def allreduce_failure(self, failure: TrainingError | None) -> TrainingError | None:
        """Return one failure for all processes, preferably an out-of-memory error; None if no process has one."""
        if self.size == 1:
            return failure
        gathered: list[TrainingError | None] = [None] * self.size
        _collective(torch.distributed.all_gather_object, gathered, failure)
        failures = [each for each in gathered if each is not None]
        return next((each for each in failures if is_out_of_memory(each)), failures[0] if failures else None)

    @contextmanager
    def collective_errors(self) -> Iterator[None]:
        """Raise an error of this block in all processes: as TrainingError in the others, or if memory is short."""
        if self.size == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        failure = self.allreduce_failure(TrainingError.from_exception(own) if own is not None else None)
        if failure is None:
            return
        raise failure if own is None or is_out_of_memory(failure) else own

    def broadcast(self, choose: Callable[[], T]) -> T:
        """Call `choose` in the main process and return its result in all processes."""
        if self.size == 1:
            return choose()
        chosen: list[Any] = [None]
        with self.collective_errors():
            if self.is_main:
                chosen = [choose()]
        _collective(torch.distributed.broadcast_object_list, chosen, src=0)
        result: T = chosen[0]
        return result


def _collective(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call torch.distributed, and raise GroupBroken for its RuntimeError, which means that a process has exited."""
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        raise GroupBroken(f"a process of the cohort has exited: {str(error).splitlines()[0]}") from error


class _ReadOnlyStore(Store):
    """A store in a process that must not write."""

    def write(self, data: bytes, *parts: str, durable: bool = True) -> None:
        """Do nothing: the main process does it."""

    def create(self, data: bytes, *parts: str) -> bool:
        """Do nothing: the main process does it."""
        return False

    def remove(self, *parts: str) -> None:
        """Do nothing: the main process does it."""

    def rename(self, old: tuple[str, ...], new: tuple[str, ...], last: str = "") -> None:
        """Do nothing: the main process does it."""


class Reducer:
    """Add up one student's gradients and BatchNorm statistics over a group at the end of an update.

    A single vector holds the gradients (of the sum of losses over a process's own micro-batches), which parameters have
    one, BatchNorm's running statistics, and whether the student failed, so that all processes drop it at the same
    update.

    Args:
        model: is on its device already.
        group: more than one process.

    Raises:
        ValueError: a BatchNorm layer has no momentum.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group = group
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.statistics = _RunningStatistics(model, group)
        sizes = [parameter.numel() for parameter in self.parameters]
        device = next(model.parameters()).device
        statistics, count = self.statistics.size, len(self.parameters)
        self.vector = torch.zeros(sum(sizes) + statistics + count + 1, device=device)
        _, self.statistics_vector, self.flags = torch.split(self.vector, [sum(sizes), statistics, count + 1])
        # Strided as the parameters, so that an optimizer steps as with autograd's own gradients.
        self.gradients = [
            self.vector.as_strided(parameter.shape, parameter.stride(), sum(sizes[:place]))
            for place, parameter in enumerate(self.parameters)
        ]
        self.wait: Callable[[], object] | None = None

    def begin_update(self) -> None:
        """Prepare for the first micro-batch of an update."""
        self.statistics.begin_update()

    def collect(self) -> None:
        """Copy gradients and statistics into the vector, after this process's last micro-batch of an update."""
        pairs = list(zip(self.gradients, (parameter.grad for parameter in self.parameters), strict=True))
        self.vector.zero_()
        present = [(part, gradient) for part, gradient in pairs if gradient is not None]
        if present:
            torch._foreach_copy_([part for part, _ in present], [gradient for _, gradient in present])
        self.statistics.collect(self.statistics_vector)
        self.flags[:-1].copy_(torch.tensor([float(gradient is not None) for _, gradient in pairs]))

    def start_allreduce(self, failed: bool) -> None:
        """Start to add up the vector over the group."""
        self.flags[-1] = float(failed)
        self.wait = self.group.start_allreduce(self.vector)

    def finish_allreduce(self) -> bool:
        """Load the sum into the model and return True; return False if the student failed in any process."""
        assert self.wait is not None, "start_allreduce comes first"
        self.wait()
        # It would keep the connections open after this process has left the group.
        self.wait = None
        *gradient_counts, failed = self.flags.tolist()
        if failed:
            return False
        for parameter, gradient, count in zip(self.parameters, self.gradients, gradient_counts, strict=True):
            parameter.grad = gradient if count else None
        self.statistics.load_reduced(self.statistics_vector)
        return True


class _RunningStatistics:
    """BatchNorm's running statistics, as one process would have them after all the micro-batches of an update.

    They are moving averages over micro-batches in order, so they are linear in their initial values. The main process
    starts from the current statistics and the others from zero; the result of each decays once for every micro-batch
    that later processes have; the sum of these is the moving average over all.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group = group
        layers: list[_BatchNorm] = []
        for name, layer in model.named_modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                if layer.momentum is None:
                    raise ValueError(f"{name}: BatchNorm without a momentum cannot be trained on several devices")
                layers.append(layer)
        means = [_buffer(layer.running_mean) for layer in layers]
        self.running = [*means, *(_buffer(layer.running_var) for layer in layers)]
        self.batches = [_buffer(layer.num_batches_tracked) for layer in layers]
        self.sizes = [len(values) for values in self.running]
        self.size = sum(self.sizes) + len(layers)
        if layers:
            device = means[0].device
            kept = [1 - (layer.momentum or 0.0) for layer in layers]
            self.kept = torch.tensor(kept, device=device, dtype=torch.float64)
            lengths = torch.tensor([len(values) for values in means], device=device)
            # For each value, the index of its layer.
            self.layer = torch.arange(len(layers), device=device).repeat_interleave(lengths).repeat(2)

    def begin_update(self) -> None:
        """Prepare for the first micro-batch of an update."""
        if self.batches:
            self.before = torch.stack(self.batches)
            if not self.group.is_main:
                torch._foreach_zero_(self.running)

    def collect(self, out: Tensor) -> None:
        """Write this process's summand of the group's statistics."""
        if self.batches:
            # A layer may run twice per micro-batch, or be frozen and not count at all.
            own = torch.stack(self.batches) - self.before
            decay = self.kept ** (own * (self.group.size - 1 - self.group.rank))
            out.copy_(torch.cat([torch.cat(self.running) * decay[self.layer], own.double()]))

    def load_reduced(self, total: Tensor) -> None:
        """Load the group's statistics into the model."""
        if self.batches:
            *running, counts = torch.split(total, [*self.sizes, len(self.batches)])
            torch._foreach_copy_(self.running, running)
            torch._foreach_copy_(self.batches, list((self.before + counts.long()).unbind()))


def _buffer(value: Tensor | None) -> Tensor:
    assert value is not None, "BatchNorm has either all running statistics or none"
    return value
