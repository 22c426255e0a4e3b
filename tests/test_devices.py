"""A cohort on several devices through the front door: real Ray, real gloo processes, real ends of processes."""

from pathlib import Path

import pytest
from cells import make_cell
from living import all_gone, details, family, kill, name
from service import PROFILE, Service, rest, wait_for

from pld_grid import schedule, track
from pld_grid.errors import InputError, ResourceError
from pld_grid.machine import ByStudent, MachineSettings
from pld_grid.schedule import check_devices
from pld_grid.spec import Cell, Recipe
from pld_grid.store import Receipt, Store

MICRO_BATCHES = PROFILE.replace("micro_batch_size: 180", "micro_batch_size: 90")
TOGETHER = MICRO_BATCHES + "machine: {cpus_per_cohort: 1, devices_per_cohort: 2}\n"
# So long that a process can be killed in the midst of it.
LONG = "{student: small, epochs: 40, loss: ce}"
GRID = f"cells: [{{teacher: big, student: small, epochs: 3, loss: [kd, pld]}}, {LONG}]"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its schema takes MLflow ten seconds to make."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    track.prepare_database(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Service:
    """A grid that ran on two devices without trouble."""
    service = Service(tmp_path_factory.mktemp("pair") / "run", profile=TOGETHER, grid=GRID, database=database)
    _, err = service.run("run")
    assert "4 cells trained" in err
    assert "Traceback" not in err
    return service


def receipts(service: Service) -> dict[str, Receipt]:
    """All receipts of a service's store, by cell id."""
    store = Store(service.store)
    found = {cell_id: store.receipt(cell_id) for cell_id in store.cell_ids()}
    return {cell_id: receipt for cell_id, receipt in found.items() if receipt is not None}


def test_two_devices_give_the_curves_of_one(tmp_path: Path, database: Path, pair: Service) -> None:
    service = Service(tmp_path, profile=MICRO_BATCHES, grid=GRID, database=database)
    service.run("run")
    found, expected = receipts(pair), receipts(service)
    assert found.keys() == expected.keys()
    for cell_id, receipt in found.items():
        assert receipt.state == expected[cell_id].state == "finished"
        assert len(receipt.epochs) == len(expected[cell_id].epochs)
        # Later, what rounding has changed has grown.
        for record, wanted in zip(receipt.epochs[:3], expected[cell_id].epochs, strict=False):
            for metric in record.metrics.keys() - {"images_per_second"}:
                # One or two of 355 images may fall to the other side.
                close = {"abs": 0.6} if "top" in metric else {"rel": 5e-3}
                assert record.metrics[metric] == pytest.approx(wanted.metrics[metric], **close), metric


# A process that trains, and the one that all of them belong to.
@pytest.mark.parametrize("victim", ["RayTrainWorker", "ImplicitFunc"])
def test_a_cohort_goes_on_after_a_process_of_it_died(
    tmp_path: Path, database: Path, pair: Service, victim: str
) -> None:
    service = Service(tmp_path, profile=TOGETHER, grid=f"cells: {LONG}", database=database)
    process = service.start("run")
    try:
        # A group of processes takes its time to start on a busy machine.
        wait_for(process, lambda: list(service.store.glob("*/checkpoints/000002.json")))
        started = family(process)
        assert kill([each for each in started if victim in name(each)][-1])
        err = rest(process)
    finally:
        process.terminate()
    assert process.returncode == 0, err
    assert "a worker died; its cohort goes on from its checkpoints" in err
    assert "1 cells trained" in err
    ((cell_id, receipt),) = receipts(service).items()
    assert receipt.weights_sha256 == receipts(pair)[cell_id].weights_sha256
    assert all_gone(started), details(started)


def test_what_one_device_raises_is_said_and_not_tried_again(tmp_path: Path, database: Path) -> None:
    service = Service(tmp_path, profile=TOGETHER, grid=f"cells: {LONG}", database=database)
    # The data is torn while the other device waits for this one.
    (tmp_path / "sitecustomize.py").write_text("""
import os, numpy
read = numpy.loadtxt
def broken(*arguments, **options):
    if os.environ.get("RANK") == "1":
        from pld_grid.train.loader import Loader
        train = Loader.train
        def torn(self, epoch):
            for number, batch in enumerate(train(self, epoch)):
                if number == 3:
                    raise OSError("the disk is gone")
                yield batch
        Loader.train = torn
    return read(*arguments, **options)
numpy.loadtxt = broken
""")
    service.environment["PYTHONPATH"] = str(tmp_path)
    _, err = service.run("run", code=1)
    assert "OSError: the disk is gone (sitecustomize.py:" in err
    assert "a worker died" not in err
    assert "1 cells failed" in err


def of_batches(batch: int, micro: int) -> Cell:
    """A cell whose batches have so many images."""
    return make_cell(recipe=Recipe(batch_size=batch, micro_batch_size=micro, warmup_epochs=1, mean=(0.3,), std=(0.4,)))


@pytest.mark.parametrize(
    ("devices", "batch", "micro", "message"),
    [
        (3, 2048, 256, r"^devices_per_cohort 3 does not divide the 8 micro-batches of a batch \(2048 / 256\); "
         r"use 1, 2, 4 or 8$"),
        (16, 2048, 256, r"16 does not divide the 8 micro-batches .*; use 1, 2, 4 or 8$"),
        (2, 64, 64, r"2 does not divide the 1 micro-batch of a batch \(64 / 64\); use 1$"),
    ],
)  # fmt: skip
def test_devices_that_cannot_share_a_batch_are_refused(devices: int, batch: int, micro: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_devices(ByStudent(MachineSettings(devices_per_cohort=devices)), [of_batches(batch, micro)])


def test_devices_that_can_share_a_batch_are_not() -> None:
    check_devices(ByStudent(MachineSettings(devices_per_cohort=4)), [of_batches(2048, 256), of_batches(1024, 256)])
    check_devices(ByStudent(MachineSettings()), [of_batches(64, 64)])


def test_a_cohort_is_as_large_as_all_its_devices() -> None:
    machine = MachineSettings(cpus_per_cohort=2, gpus_per_cohort=1, devices_per_cohort=4)
    schedule.check_resources([machine], {"CPU": 8, "GPU": 4})
    assert schedule.slots(machine, {"CPU": 16, "GPU": 8}) == 2
    assert schedule.slots(machine, {"CPU": 15, "GPU": 8}) == 1
    refused = "a cohort asks for 4 devices with 2 CPUs and 1 GPUs each, the cluster has room for 3"
    for resources in ({"CPU": 8, "GPU": 3}, {"CPU": 7, "GPU": 4}):
        with pytest.raises(ResourceError, match=refused):
            schedule.check_resources([machine], resources)
    with pytest.raises(ResourceError, match="asks for 2 CPUs and 1 GPUs, the cluster has 8 CPUs and 0 GPUs"):
        schedule.check_resources([machine], {"CPU": 8})


def test_a_device_has_room_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": alive, "Resources": {"CPU": 5.0}} for alive in (True, True, False)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    cluster = {"CPU": 10.0, "node:10.0.0.1": 1.0, "node:10.0.0.2": 1.0}
    assert schedule.slots(MachineSettings(cpus_per_cohort=3), cluster) == 2
    assert schedule.slots(MachineSettings(cpus_per_cohort=3, devices_per_cohort=2), cluster) == 1
    schedule.check_resources([MachineSettings(cpus_per_cohort=5, devices_per_cohort=2)], cluster)
    with pytest.raises(ResourceError, match="a cohort asks for 6 CPUs, the largest of 2 nodes has 5 CPUs"):
        schedule.check_resources([MachineSettings(cpus_per_cohort=6)], cluster)


def test_devices_are_of_the_kind_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"10.0.0.1": "H100", "10.0.0.2": "A10G"}
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": gpus, f"node:{ip}": 1.0, f"accelerator_type:{kind}": 1.0}}
        for gpus, (ip, kind) in zip((4.0, 8.0), kinds.items(), strict=True)
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    cluster = {"CPU": 16.0, "GPU": 12.0, **{f"node:{ip}": 1.0 for ip in kinds}}
    one = MachineSettings(gpus_per_cohort=1, accelerator="H100")
    assert schedule.slots(one, cluster) == 4
    assert schedule.slots(one.model_copy(update={"accelerator": "A10G"}), cluster) == 8
    schedule.check_resources([one, one.model_copy(update={"devices_per_cohort": 4})], cluster)
    with pytest.raises(ResourceError, match="5 devices of kind H100 with 1 CPUs and 1 GPUs each, the cluster has room"):
        schedule.check_resources([one, one.model_copy(update={"devices_per_cohort": 5})], cluster)
    with pytest.raises(ResourceError, match=r'kind "A10", the cluster has: A10G, H100 \(did you mean "A10G"'):
        schedule.check_resources([one.model_copy(update={"accelerator": "A10"})], cluster)
