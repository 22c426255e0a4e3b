"""Cohorts on several devices, with real Ray and gloo processes."""

import os
from pathlib import Path

import pytest
from cells import make_cell
from cli_process import PROFILE, Service, rest, wait_for
from live_processes import describe_processes, have_exited, kill, list_descendants, process_name

from pld_grid.experiment.cell import Cell, Recipe
from pld_grid.experiment.machine import ByStudent, MachineSettings
from pld_grid.orchestrate.resources import check_devices, check_resources, count_slots
from pld_grid.store import Receipt, Store
from pld_grid.util.errors import InputError, ResourceError

MICRO_BATCHES = PROFILE.replace("micro_batch_size: 180", "micro_batch_size: 90")
TOGETHER = MICRO_BATCHES + "machine: {cpus_per_cohort: 1, devices_per_cohort: 2}\n"
# Long enough to kill a process during the training.
LONG = "{student: small, epochs: 40, loss: ce}"
GRID = f"cells: [{{teacher: big, student: small, epochs: 3, loss: [kd, pld]}}, {LONG}]"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Service:
    """A grid that was trained on two devices."""
    service = Service(tmp_path_factory.mktemp("pair") / "run", profile=TOGETHER, grid=GRID, database=database)
    _, err = service.run("run")
    assert "4 cells trained" in err
    assert "Traceback" not in err
    return service


def load_receipts(service: Service) -> dict[str, Receipt]:
    """Return all receipts of a service's store, by cell id."""
    store = Store(service.store)
    return {cell_id: receipt for cell_id in store.cell_ids() if (receipt := store.receipt(cell_id)) is not None}


@pytest.mark.ray
def test_training_on_two_devices_gives_the_curves_of_one(tmp_path, database, pair):
    service = Service(tmp_path, profile=MICRO_BATCHES, grid=GRID, database=database)
    service.run("run")
    actual, expected = load_receipts(pair), load_receipts(service)
    assert actual.keys() == expected.keys()
    for cell_id, receipt in actual.items():
        assert receipt.state == expected[cell_id].state == "finished"
        assert len(receipt.epochs) == len(expected[cell_id].epochs)
        # Rounding differences grow in later epochs.
        for record, wanted in zip(receipt.epochs[:3], expected[cell_id].epochs, strict=False):
            for metric in record.metrics.keys() - {"images_per_second"}:
                # One or two of 355 images may be classified differently.
                close = {"abs": 0.6} if "top" in metric else {"rel": 5e-3}
                assert record.metrics[metric] == pytest.approx(wanted.metrics[metric], **close), metric


# A process that trains, and the trial that started it.
@pytest.mark.parametrize("victim", ["RayTrainWorker", "ImplicitFunc"])
@pytest.mark.ray
def test_cohort_whose_process_is_killed_continues_from_its_checkpoint(tmp_path, database, pair, victim):
    service = Service(tmp_path, profile=TOGETHER, grid=f"cells: {LONG}", database=database)
    process = service.start("run")
    try:
        wait_for(process, lambda: list(service.store.glob("*/checkpoints/000002.json")))
        started = list_descendants(process)
        assert kill([each for each in started if victim in process_name(each)][-1])
        err = rest(process)
    finally:
        process.terminate()
    assert process.returncode == 0, err
    assert "a worker died; its cohort continues from its checkpoints" in err
    assert "1 cells trained" in err
    ((cell_id, receipt),) = load_receipts(service).items()
    assert receipt.weights_sha256 == load_receipts(pair)[cell_id].weights_sha256
    assert have_exited(started), describe_processes(started)


@pytest.mark.ray
def test_error_on_one_device_is_reported_and_not_retried(tmp_path, database):
    service = Service(tmp_path, profile=TOGETHER, grid=f"cells: {LONG}", database=database)
    # Reading fails while the other device waits for this one.
    (tmp_path / "sitecustomize.py").write_text("""
import os, numpy
read = numpy.loadtxt
def patched(*arguments, **options):
    if os.environ.get("RANK") == "1":
        from pld_grid.train.loader import Loader
        train = Loader.train_batches
        def failing(self, epoch):
            for number, batch in enumerate(train(self, epoch)):
                if number == 3:
                    raise OSError("the disk is gone")
                yield batch
        Loader.train_batches = failing
    return read(*arguments, **options)
numpy.loadtxt = patched
""")
    service.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    _, err = service.run("run", code=1)
    assert "OSError: the disk is gone (sitecustomize.py:" in err
    assert "a worker died" not in err
    assert "1 cells failed" in err


def make_cell_with_batches(batch: int, micro: int) -> Cell:
    """Return a cell with batches of this size."""
    return make_cell(recipe=Recipe(batch_size=batch, micro_batch_size=micro, warmup_epochs=1, mean=(0.3,), std=(0.4,)))


@pytest.mark.parametrize(
    ("devices", "batch", "micro", "message"),
    [
        (
            3,
            2048,
            256,
            r"^devices_per_cohort 3 does not divide the 8 micro-batches of a batch \(2048 / 256\); "
            r"use 1, 2, 4 or 8$",
        ),
        (16, 2048, 256, r"16 does not divide the 8 micro-batches .*; use 1, 2, 4 or 8$"),
        (2, 64, 64, r"2 does not divide the 1 micro-batch of a batch \(64 / 64\); use 1$"),
    ],
)
def test_check_devices_that_do_not_divide_a_batch_raises(devices, batch, micro, message):
    with pytest.raises(InputError, match=message):
        check_devices(ByStudent(MachineSettings(devices_per_cohort=devices)), [make_cell_with_batches(batch, micro)])


def test_check_devices_that_divide_every_batch_passes():
    check_devices(
        ByStudent(MachineSettings(devices_per_cohort=4)),
        [make_cell_with_batches(2048, 256), make_cell_with_batches(1024, 256)],
    )
    check_devices(ByStudent(MachineSettings()), [make_cell_with_batches(64, 64)])


def test_resources_of_a_cohort_include_all_its_devices():
    machine = MachineSettings(cpus_per_cohort=2, gpus_per_cohort=1, devices_per_cohort=4)
    check_resources([machine], {"CPU": 8, "GPU": 4})
    assert count_slots(machine, {"CPU": 16, "GPU": 8}) == 2
    assert count_slots(machine, {"CPU": 15, "GPU": 8}) == 1
    message = "a cohort asks for 4 devices with 2 CPUs and 1 GPUs each, the cluster has room for 3"
    for resources in ({"CPU": 8, "GPU": 3}, {"CPU": 7, "GPU": 4}):
        with pytest.raises(ResourceError, match=message):
            check_resources([machine], resources)
    with pytest.raises(ResourceError, match="asks for 2 CPUs and 1 GPUs, the cluster has 8 CPUs and 0 GPUs"):
        check_resources([machine], {"CPU": 8})


def test_resources_of_a_device_are_on_one_node(monkeypatch):
    nodes = [{"Alive": alive, "Resources": {"CPU": 5.0}} for alive in (True, True, False)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    cluster = {"CPU": 10.0, "node:10.0.0.1": 1.0, "node:10.0.0.2": 1.0}
    assert count_slots(MachineSettings(cpus_per_cohort=3), cluster) == 2
    assert count_slots(MachineSettings(cpus_per_cohort=3, devices_per_cohort=2), cluster) == 1
    check_resources([MachineSettings(cpus_per_cohort=5, devices_per_cohort=2)], cluster)
    with pytest.raises(ResourceError, match="a cohort asks for 6 CPUs, the largest of 2 nodes has 5 CPUs"):
        check_resources([MachineSettings(cpus_per_cohort=6)], cluster)


def test_resources_with_an_accelerator_count_only_matching_nodes(monkeypatch):
    kinds = {"10.0.0.1": "H100", "10.0.0.2": "A10G"}
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": gpus, f"node:{ip}": 1.0, f"accelerator_type:{kind}": 1.0}}
        for gpus, (ip, kind) in zip((4.0, 8.0), kinds.items(), strict=True)
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    cluster = {"CPU": 16.0, "GPU": 12.0, **{f"node:{ip}": 1.0 for ip in kinds}}
    one = MachineSettings(gpus_per_cohort=1, accelerator="H100")
    assert count_slots(one, cluster) == 4
    assert count_slots(one.model_copy(update={"accelerator": "A10G"}), cluster) == 8
    check_resources([one, one.model_copy(update={"devices_per_cohort": 4})], cluster)
    with pytest.raises(ResourceError, match="5 devices of kind H100 with 1 CPUs and 1 GPUs each, the cluster has room"):
        check_resources([one, one.model_copy(update={"devices_per_cohort": 5})], cluster)
    with pytest.raises(ResourceError, match=r'kind "A10", the cluster has: A10G, H100 \(did you mean "A10G"'):
        check_resources([one.model_copy(update={"accelerator": "A10"})], cluster)
