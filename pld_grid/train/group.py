"""Several processes that train one cohort together, each on a device of its own.

All run the same code, each on its own micro-batches, and meet in the same order; a group of one never does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pld_grid.store import PATIENCE, Store
from pld_grid.train.device import out_of_memory
from pld_grid.train.failure import Failed

T = TypeVar("T")


class GroupBroken(Exception):
    """Another process of the group is gone, so this one cannot go on."""


class Group:
    """The processes of a cohort: this one's rank, how many there are, and the few ways in which they meet.

    Whatever meets raises GroupBroken if another process is gone.

    Args:
        rank: from 0; the first process alone writes to the store and tells of events.
        size: processes; more than one must have joined torch.distributed's default group.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def joined(cls) -> "Group":
        """The processes of torch.distributed's default group."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def store(self, uri: str) -> Store:
        """The store: all processes read it, the first alone writes."""
        return (Store if self.first else _ReadOnly)(uri, PATIENCE)

    def leave(self) -> None:
        """Breaks the group for the others, who would wait for this process otherwise."""
        if self.size > 1:
            torch.distributed.destroy_process_group()

    def add(self, values: Tensor) -> "Sum":
        """Begins to replace values by their sum over the group."""
        return Sum(_meet(torch.distributed.all_reduce, values, async_op=True))

    def agree(self, failure: Failed | None) -> Failed | None:
        """The failure that counts for all, a lack of memory before others; None if no process has one."""
        if self.size == 1:
            return failure
        told: list[Failed | None] = [None] * self.size
        _meet(torch.distributed.all_gather_object, told, failure)
        failures = [each for each in told if each is not None]
        return next((each for each in failures if out_of_memory(each)), failures[0] if failures else None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What raises in this block in one process raises in all: elsewhere, and for a lack of memory, as Failed."""
        if self.size == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        failure = self.agree(Failed.of(own) if own is not None else None)
        if failure is None:
            return
        raise failure if own is None or out_of_memory(failure) else own

    def decide(self, choose: Callable[[], T]) -> T:
        """What the first process chooses, in all of them."""
        if self.size == 1:
            return choose()
        chosen: list[Any] = [None]
        with self.together():
            if self.first:
                chosen = [choose()]
        _meet(torch.distributed.broadcast_object_list, chosen, src=0)
        answer: T = chosen[0]
        return answer


class Sum:
    """A sum under way."""

    def __init__(self, work: Any) -> None:
        self.work = work

    def wait(self) -> None:
        """Until the values are the sum."""
        _meet(self.work.wait)


def _meet(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Calls torch.distributed, which has no error of its own for a process that is gone."""
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        raise GroupBroken(f"a process of the cohort is gone: {str(error).splitlines()[0]}") from error


class _ReadOnly(Store):
    """The store of a process that must not write."""

    def write(self, data: bytes, *parts: str, durable: bool = True) -> None:
        """Leaves it to the first process."""

    def create(self, data: bytes, *parts: str) -> bool:
        """Leaves it to the first process."""
        return False

    def remove(self, *parts: str) -> None:
        """Leaves it to the first process."""

    def rename(self, old: tuple[str, ...], new: tuple[str, ...], last: str = "") -> None:
        """Leaves it to the first process."""


class Exchange:
    """What processes add up of one student at the end of an update, as one vector.

    These are gradients (of the sum of losses over a process's own micro-batches), which parameters have one, what
    BatchNorm has seen, and whether the student failed, so that it leaves everywhere at the same update.

    Raises:
        ValueError: a BatchNorm layer whose statistics cannot be put together.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group = group
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.statistics = _RunningStatistics(model, group)
        sizes = [parameter.numel() for parameter in self.parameters]
        device = next(model.parameters()).device
        seen, count = self.statistics.size, len(self.parameters)
        self.vector = torch.zeros(sum(sizes) + seen + count + 1, device=device)
        _, self.seen, self.flags = torch.split(self.vector, [sum(sizes), seen, count + 1])
        # Laid out as the parameters are, so that an optimizer steps with them as with gradients of autograd's own.
        self.gradients = [
            self.vector.as_strided(parameter.shape, parameter.stride(), sum(sizes[:place]))
            for place, parameter in enumerate(self.parameters)
        ]
        self.sum: Sum | None = None

    def begin(self) -> None:
        """Before the first micro-batch of an update."""
        self.statistics.begin()

    def fill(self) -> None:
        """After this process's last micro-batch: takes down what it has."""
        pairs = list(zip(self.gradients, (parameter.grad for parameter in self.parameters), strict=True))
        self.vector.zero_()
        known = [(part, gradient) for part, gradient in pairs if gradient is not None]
        if known:
            torch._foreach_copy_([part for part, _ in known], [gradient for _, gradient in known])
        self.statistics.fill(self.seen)
        self.flags[:-1].copy_(torch.tensor([float(gradient is not None) for _, gradient in pairs]))

    def send(self, failed: bool) -> None:
        """Begins to add up."""
        self.flags[-1] = float(failed)
        self.sum = self.group.add(self.vector)

    def receive(self) -> bool:
        """Gives the model the group's gradients and statistics; False, and nothing of it, if it failed somewhere."""
        assert self.sum is not None, "nothing was sent"
        self.sum.wait()
        # It would keep the connections open after this process has left.
        self.sum = None
        *known, failed = self.flags.tolist()
        if failed:
            return False
        for parameter, gradient, processes in zip(self.parameters, self.gradients, known, strict=True):
            parameter.grad = gradient if processes else None
        self.statistics.take(self.seen)
        return True


class _RunningStatistics:
    """BatchNorm's running statistics, as one process would have them after all the micro-batches of an update.

    They are moving averages over micro-batches in their order, so they are linear in where they start from: here the
    first process starts from what is known and the others from zero, what each arrives at decays once for every
    micro-batch that comes after its own, and the sum is the average over all.
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
            # The layer that each of the values belongs to.
            self.layer = torch.arange(len(layers), device=device).repeat_interleave(lengths).repeat(2)

    def begin(self) -> None:
        """Before the first micro-batch of an update."""
        if self.batches:
            self.before = torch.stack(self.batches)
            if not self.group.first:
                torch._foreach_zero_(self.running)

    def fill(self, out: Tensor) -> None:
        """Writes what this process adds to the group's statistics."""
        if self.batches:
            # A layer that is used twice, or is frozen, counts as often as it has seen a micro-batch.
            own = torch.stack(self.batches) - self.before
            decay = self.kept ** (own * (self.group.size - 1 - self.group.rank))
            out.copy_(torch.cat([torch.cat(self.running) * decay[self.layer], own.double()]))

    def take(self, total: Tensor) -> None:
        """Makes the group's statistics the model's."""
        if self.batches:
            *running, seen = torch.split(total, [*self.sizes, len(self.batches)])
            torch._foreach_copy_(self.running, running)
            torch._foreach_copy_(self.batches, list((self.before + seen.long()).unbind()))


def _buffer(value: Tensor | None) -> Tensor:
    assert value is not None, "running statistics come together"
    return value
