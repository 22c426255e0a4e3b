"""A cohort on several devices: Ray Train's TorchTrainer inside a Tune trial, a worker for each device."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pld_grid.events import Event, Listener
from pld_grid.reading import one_line
from pld_grid.schedule.cluster import resources_per_device
from pld_grid.spec import Cell
from pld_grid.train.cohort import train_cohort
from pld_grid.train.device import out_of_memory
from pld_grid.train.failure import Failed, loader_died
from pld_grid.train.group import Group, GroupBroken
from pld_grid.train.surroundings import Surroundings

# Read by Ray Train in the trial, and handed on by it to the processes that it starts.
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Seconds; how late it may notice that a cohort has ended.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A process each that would tell nobody: cohorts go on from checkpoints whatever ended them.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class WorkerDied(Exception):
    """A worker of the cohort ended without an error of its own: the cohort may be tried again."""


def train_on_devices(
    cells: Sequence[Cell], surroundings: Surroundings, listener: Listener, flush: Callable[[], None]
) -> None:
    """`train_cohort` in as many workers as the cohort has devices, from inside a Tune trial.

    Raises:
        Failed: what `train_cohort` raised in a worker.
        WorkerDied: a worker is gone, or Ray could not start one.
    """
    from ray import tune
    from ray.exceptions import RayError
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    machine, context = surroundings.machine, tune.get_context()
    trial = context.get_trial_id()
    _give_back(trial)
    news = Queue(actor_options={"num_cpus": 0})
    given = [cell.model_dump(mode="json") for cell in cells]
    trainer = TorchTrainer(
        _train_share,
        train_loop_config={"trial": trial, "cells": given, "surroundings": surroundings, "news": news},
        # NCCL wants a whole GPU for each process.
        torch_config=TorchConfig(backend="nccl" if machine.gpus_per_cohort >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=machine.devices_per_cohort,
            use_gpu=bool(machine.gpus_per_cohort),
            resources_per_worker=resources_per_device(machine),
        ),
        run_config=RunConfig(name=trial, storage_path=context.get_trial_dir()),
    )  # fmt: skip
    failures: list[Failed] = []
    try:
        with ThreadPoolExecutor(1) as pool:
            run: Future[Any] = pool.submit(trainer.fit)
            # Behind all news, as workers wait until theirs have arrived.
            run.add_done_callback(lambda _: news.put(None))
            for item in iter(news.get, None):
                if isinstance(item, Failed):
                    failures.append(item)
                else:
                    for event in item:
                        listener(Event(**event))
                    flush()
        run.result()
    except (TrainingFailedError, RayError) as error:
        raise failures[0] if failures else WorkerDied(one_line(" ".join(str(error).split()), 300)) from error
    finally:
        news.shutdown()


def _train_share(config: dict[str, Any]) -> None:
    """In a worker of the cohort."""
    import torch

    surroundings: Surroundings = config["surroundings"]
    torch.set_num_threads(max(1, int(surroundings.machine.cpus_per_cohort)))
    cells = [Cell.model_validate(cell) for cell in config["cells"]]
    group, news, outbox = Group.joined(), config["news"], list[dict[str, Any]]()
    if group.first:
        _note_resources(config["trial"])

    def send() -> None:
        if outbox:
            news.put(outbox.copy())
            outbox.clear()

    try:
        train_cohort(cells, surroundings, lambda event: outbox.append(event.to_dict()), send, group)
        send()
    except Exception as error:
        send()
        # Where memory was short in one process alone, another try or a smaller cohort may help.
        if not isinstance(error, GroupBroken) and not out_of_memory(error) and not loader_died(error):
            news.put(Failed.of(error))
        group.leave()
        raise Failed.of(error) from None


# Ray keeps the resources of a trial's workers when the trial itself is killed: what gives them back needs Ray's
# dashboard, which a local cluster lacks. The next try of the trial would wait for them for ever.


def _note_resources(trial: str) -> None:
    """In a worker of the cohort: notes in the cluster which placement group the trial holds."""
    from ray.experimental.internal_kv import _internal_kv_put
    from ray.util import get_current_placement_group

    held = get_current_placement_group()
    assert held is not None, "Ray Train puts its workers into one"
    _internal_kv_put(f"pld_grid:{trial}", held.id.binary())


def _give_back(trial: str) -> None:
    """Gives back what an earlier try of the trial held; nothing happens if Ray has done so."""
    from ray import PlacementGroupID
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    held = _internal_kv_get(f"pld_grid:{trial}")
    if held is not None:
        remove_placement_group(PlacementGroup(PlacementGroupID(held)))
