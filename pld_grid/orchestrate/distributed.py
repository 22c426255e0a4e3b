"""A cohort on several devices: Ray Train's TorchTrainer inside a Tune trial, with one worker per device."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import CellFailed, ClaimedElsewhere, Event, EventCallback
from pld_grid.orchestrate.resources import resources_per_device
from pld_grid.orchestrate.tuner import PLACEMENT_GROUP
from pld_grid.train.cohort import train_cohort
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.failure import TrainingError
from pld_grid.train.group import Group, GroupBroken
from pld_grid.train.loader import LoaderWorkerDied
from pld_grid.train.run_context import RunContext
from pld_grid.util.text import one_line

# Read by Ray Train in the trial, and passed on by it to its workers.
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # How late it may notice that a cohort has ended.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # One process per worker that serves nothing here: cohorts continue from checkpoints after any interruption.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class WorkerDied(Exception):
    """A worker of the cohort ended without an error of its own; the cohort may be tried again."""


class EventBuffer:
    """Collects events until `flush` sends them all at once, because each message waits for its receiver.

    Attributes:
        left: Ids of the cells that left the cohort.
    """

    def __init__(self, send: Callable[[list[dict[str, Any]]], None]) -> None:
        self.left: set[str] = set()
        self._send = send
        self._pending: list[dict[str, Any]] = []

    def on_event(self, event: Event) -> None:
        """Collect an event."""
        self._pending.append(event.to_dict())
        if isinstance(event, ClaimedElsewhere | CellFailed):
            self.left.add(event.cell_id)

    def flush(self) -> None:
        """Send the collected events, if there are any."""
        if self._pending:
            self._send(self._pending.copy())
            self._pending.clear()


@dataclass(frozen=True)
class _ResourcesHeld:
    """A message of the first worker: the id of the placement group with the cohort's resources."""

    placement_group: str


def train_on_devices(
    cells: Sequence[Cell], context: RunContext, on_event: EventCallback, flush: Callable[[], None]
) -> None:
    """Run `train_cohort` in one worker per device, from inside a Tune trial.

    Args:
        cells: The cells of the cohort.
        context: The run context; its machine says how many devices.
        on_event: Receives the first worker's events, in this process.
        flush: Called when no event is expected for a while.

    Raises:
        TrainingError: `train_cohort` raised an error in a worker.
        WorkerDied: A worker died, or Ray could not start one.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    trainer = _make_trainer(cells, context, queue)
    failures: list[TrainingError] = []
    try:
        with ThreadPoolExecutor(1) as pool:
            training: Future[Any] = pool.submit(trainer.fit)
            # The last message, because workers wait until theirs have arrived.
            training.add_done_callback(lambda _: queue.put(None))
            _receive(queue, on_event, flush, failures)
        training.result()
    except (TrainingFailedError, RayError) as error:
        raise failures[0] if failures else WorkerDied(one_line(" ".join(str(error).split()), 300)) from error
    finally:
        queue.shutdown()


def _make_trainer(cells: Sequence[Cell], context: RunContext, queue: Any) -> Any:
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    machine, trial = context.machine, tune.get_context()
    return TorchTrainer(
        _run_worker,
        train_loop_config={
            "cells": [cell.model_dump(mode="json") for cell in cells],
            "context": context,
            "queue": queue,
        },
        # NCCL requires a whole GPU for each process.
        torch_config=TorchConfig(backend="nccl" if machine.gpus_per_cohort >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=machine.devices_per_cohort,
            use_gpu=bool(machine.gpus_per_cohort),
            resources_per_worker=resources_per_device(machine),
        ),
        run_config=RunConfig(name=trial.get_trial_id(), storage_path=trial.get_trial_dir()),
    )


def _receive(queue: Any, on_event: EventCallback, flush: Callable[[], None], failures: list[TrainingError]) -> None:
    """Handle the workers' messages until None arrives."""
    from ray import tune

    for message in iter(queue.get, None):
        if isinstance(message, TrainingError):
            failures.append(message)
        elif isinstance(message, _ResourcesHeld):
            # The driver releases them if this process dies.
            tune.report({PLACEMENT_GROUP: message.placement_group})
        else:
            for event in message:
                on_event(Event.from_dict(event))
            flush()


def _run_worker(config: dict[str, Any]) -> None:
    """Train the share of one device, in a Ray Train worker."""
    import torch
    from ray.util import get_current_placement_group

    context: RunContext = config["context"]
    torch.set_num_threads(max(1, int(context.machine.cpus_per_cohort)))
    cells = [Cell.model_validate(cell) for cell in config["cells"]]
    group, queue = Group.from_distributed(), config["queue"]
    events = EventBuffer(queue.put)
    if group.is_main:
        placement_group = get_current_placement_group()
        assert placement_group is not None, "Ray Train starts its workers in a placement group"
        queue.put(_ResourcesHeld(placement_group.id.hex()))

    try:
        train_cohort(cells, context, events.on_event, events.flush, group)
        events.flush()
    except Exception as error:
        events.flush()
        # A lack of memory in one process may not recur in another attempt or in a smaller cohort.
        if not isinstance(error, GroupBroken | LoaderWorkerDied) and not is_out_of_memory(error):
            queue.put(TrainingError.from_exception(error))
        group.abort()
        raise TrainingError.from_exception(error) from None
