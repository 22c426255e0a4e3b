"""Grids as jobs on a real Ray cluster of several nodes that requires a token, on loopback."""

import dataclasses
import itertools
import os
import platform
import re
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import live_processes
import pytest
from cli_process import GRID, RETRY_TIMEOUT_SECONDS, Service, rest, wait_for
from cluster_client import Cohort, Submitter
from ports import free_port
from ray_cluster import TOKEN, RayCluster, ray_cluster

from pld_grid.store import Store, claims, leases

pytestmark = pytest.mark.ray

LONG = GRID.replace("epochs: 6", "epochs: 40")
# Long enough that a node whose worker starts late still gets cohorts.
WIDE = GRID.replace("epochs: 6", "epochs: 20")
Undisturbed = Callable[[str], bytes]

# For a `sitecustomize`: three submissions wait for each other after each has listed the jobs.
SUBMIT_CONCURRENTLY = """
import os, pathlib, time
from pld_grid.service import job_submission as jobs

HERE, stage = pathlib.Path(__file__).parent, jobs._stage


def wait_for_others(*arguments):
    stage(*arguments)
    (HERE / f"{os.getpid()}.here").touch()
    while len(list(HERE.glob("*.here"))) < 3:
        time.sleep(0.01)


jobs._stage = wait_for_others
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head and two workers."""
    with ray_cluster(workers=("H100", "A10G")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Undisturbed:
    """Returns the table of a grid that ran without a cluster."""

    @cache
    def run(grid: str) -> bytes:
        service = Service(tmp_path_factory.mktemp("local"), grid=grid, database=database)
        service.run("run")
        return service.tables()["losses.csv"]

    return run


def test_submit_runs_a_grid_once_on_all_nodes_with_the_local_results(tmp_path, cluster, database, undisturbed):
    laptop = Submitter(tmp_path, cluster, database, WIDE)
    first, err = laptop.run("submit", "--cohort-size", "2")
    assert "submitted: 9 cells" in first
    assert "pld-grid logs -f" in err
    again, _ = laptop.run("submit", "--cohort-size", "2")
    job = first.split()[0]
    assert again == f"{job} is running these grids already\n"
    # The job does not need the laptop's files.
    (tmp_path / "losses.yaml").rename(tmp_path / "gone.yaml")
    out, _ = laptop.run("logs", "-f", job)
    (tmp_path / "gone.yaml").rename(tmp_path / "losses.yaml")
    assert "9 cells trained" in out
    assert TOKEN not in out
    assert laptop.table() == undisturbed(WIDE)
    # A node has one CPU and a cohort takes one: those that ran at the same time ran on different nodes.
    assert any(one.overlaps(other) for one, other in itertools.combinations(laptop.cohorts(), 2))
    status, _ = laptop.run("status", job)
    assert re.search(r"state +succeeded", status)
    assert "[9/9]" in status
    listed, _ = laptop.run("list")
    assert [line.split()[:2] for line in listed.splitlines() if job in line] == [[job, "succeeded"]]
    assert laptop.run("stop", job)[0] == f"{job} has ended before: succeeded\n"
    third = laptop.submit()
    assert third == job.removesuffix("-1") + "-2"
    assert "Nothing to train: all 9 cells are finished." in laptop.run("logs", "-f")[0]


def test_submit_of_overlapping_grids_trains_each_cell_once(tmp_path, cluster, database, undisturbed):
    half = WIDE.replace("[ce, kd, dist, pld]", "[pld, ls, dist]").partition("table:")[0]
    one, other = (
        Submitter(tmp_path / name, cluster, database, grid) for name, grid in (("one", WIDE), ("other", half))
    )
    for name in ("PLD_GRID_STORE", "MLFLOW_TRACKING_URI"):
        other.environment[name] = one.environment[name]
    jobs = [laptop.submit() for laptop in (one, other)]
    for laptop, job in zip((one, other), jobs, strict=True):
        out, _ = laptop.run("logs", "-f", job)
        assert re.search(r"\d+ cells trained", out)
        assert "0 failed" in out
        assert "Traceback" not in out
    store = Store(one.store)
    logs = [tuple(entry.kind for entry in claims.read_log(store, cell_id)) for cell_id in store.cell_ids()]
    # The nine of the first grid, and `ls` with two optimizers of the second.
    assert logs == [("claimed", "finished")] * 11
    assert one.table() == undisturbed(WIDE)


def _training(store: Store) -> dict[str, str]:
    """Return the user whose job trains a student, by cell id, of students with more epochs than a teacher has."""
    users = {}
    for cell_id in store.cell_ids():
        record, claim = store.record(cell_id), claims.holder(store, cell_id)
        heartbeat = leases.read_heartbeat(store, claim.lease) if claim is not None else None
        if heartbeat is not None and record is not None and len(record.epochs) > 2:
            # The process runs in the submitted folder.
            for folder in live_processes.working_folder(heartbeat.pid).glob("of-*"):
                users[cell_id] = folder.name.removeprefix("of-")
    return users


def test_stop_of_one_of_two_users_leaves_the_other_job_running(tmp_path, cluster, database, undisturbed):
    laptops = {user: Submitter(tmp_path / user, cluster, database, WIDE) for user in ("ann", "bob")}
    (tmp_path / "concurrent").mkdir()
    (tmp_path / "concurrent" / "sitecustomize.py").write_text(SUBMIT_CONCURRENTLY)
    path = os.pathsep.join(filter(None, (str(tmp_path / "concurrent"), os.environ.get("PYTHONPATH"))))
    shared = {name: laptops["ann"].environment[name] for name in ("PLD_GRID_STORE", "MLFLOW_TRACKING_URI")}
    for user, laptop in laptops.items():
        laptop.environment |= shared | {"LOGNAME": user, "PYTHONPATH": path}
        (laptop.folder / f"of-{user}").touch()
        gate = laptop.add_gate(tmp_path / "gate", 5)
    started = [
        (user, laptops[user].start("submit", "--report", str(tmp_path / user / "report")))
        for user in ("ann", "ann", "bob")
    ]
    outputs = [
        (user, *process.communicate(timeout=RETRY_TIMEOUT_SECONDS)[0].split(maxsplit=1)) for user, process in started
    ]
    jobs = {user: job for user, job, _ in outputs}
    # The second submission of the same user returns the running job.
    new, again = "submitted: 9 cells\n", "is running these grids already\n"
    assert {job for _, job, _ in outputs} == set(jobs.values())
    assert sorted(job.rpartition("-")[2] for job in jobs.values()) == ["1", "2"]
    assert sorted((user, text) for user, _, text in outputs) == [("ann", again), ("ann", new), ("bob", new)]

    store, training = Store(laptops["ann"].store), dict[str, str]()
    following = {user: laptop.start("logs", "-f") for user, laptop in laptops.items()}
    wait_for(following["ann"], lambda: training.update(_training(store)) or training)
    one, other = sorted(laptops, key=lambda user: user not in training.values())
    before = {cell_id: store.record(cell_id) for cell_id, user in training.items() if user == one}
    # Without a job id, `stop` stops the user's own job.
    assert laptops[one].stop(gate, 6) == f"{jobs[one]} stopped\n"
    rest(following[one])
    gate.open()
    out, _ = following[other].communicate(timeout=RETRY_TIMEOUT_SECONDS)
    assert following[other].returncode == 0
    assert "0 failed" in out
    listed = [line.split() for line in laptops[one].run("list")[0].splitlines()]
    assert {row[0]: row[1:3] for row in listed if row[0] in jobs.values()} == {
        jobs[one]: ["stopped", f"{one}@{platform.node()}"],
        jobs[other]: ["succeeded", f"{other}@{platform.node()}"],
    }

    logs = {cell_id: claims.read_log(store, cell_id) for cell_id in store.cell_ids()}
    assert len(logs) == 9
    assert [sum(entry.kind == "finished" for entry in log) for log in logs.values()] == [1] * 9
    left = {cell_id: log for cell_id, log in logs.items() if any(entry.kind == "released" for entry in log)}
    assert left.keys() >= before.keys() != set()
    for log in left.values():
        assert [entry.kind for entry in log] == ["claimed", "released", "claimed", "finished"]
        assert log[0].run == log[1].run != log[2].run == log[3].run
    for cell_id, progress in before.items():
        receipt = store.receipt(cell_id)
        # Epochs before the checkpoint were not repeated.
        assert receipt.epochs[: len(progress.epochs)] == progress.epochs
    assert (tmp_path / other / "report" / "losses.csv").read_bytes() == undisturbed(WIDE)


def test_submit_runs_students_on_the_accelerator_of_their_machine_class(tmp_path, cluster, database):
    grid = WIDE.replace("student: small", "student: [small, big]").replace("[ce, kd, dist, pld]", "[kd, pld]")
    laptop = Submitter(tmp_path, cluster, database, grid.partition("table:")[0])
    profile = tmp_path / "tiny.yaml"
    profile.write_text(
        f"{profile.read_text()}machine: {{cohort_size: 1, accelerator: H100}}\n"
        "machines: {small: {students: [small], accelerator: A10G}}\n"
    )
    out, _ = laptop.run("logs", "-f", laptop.submit())
    assert "9 cells trained" in out
    store = Store(laptop.store)
    receipts = [receipt for cell in store.cell_ids() if (receipt := store.receipt(cell)) is not None]
    spans = [
        (receipt.cell.student.architecture, Cohort(receipt.provenance.started, receipt.provenance.ended))
        for receipt in receipts
        if receipt.cell.teacher is not None
    ]
    pairs = [(a, b) for (a, one), (b, two) in itertools.combinations(spans, 2) if one.overlaps(two)]
    # Each kind is on one node with one CPU, and neither waits for the other.
    assert pairs
    assert all(one != two for one, two in pairs)


def test_run_with_an_address_uses_the_cluster(tmp_path, cluster, database):
    one_cell = GRID.replace("[ce, kd, dist, pld]", "ce").replace("[adamw, lamb]", "adamw").partition("table:")[0]
    laptop = Submitter(tmp_path, cluster, database, one_cell)
    address = f"127.0.0.1:{cluster.port}"
    laptop.run("calibrate", "--address", address)
    _, err = laptop.run("run", "--address", address)
    # Calibrated on the cluster, for the device on which it then ran.
    assert re.search(r"1 cells to train, about \d+s with 2 slots", err)
    assert "1 cells trained" in err
    assert laptop.states() == ["finished"]
    assert cluster.alive() == {"head", "worker-1", "worker-2"}


def test_stop_keeps_checkpoints_from_which_the_next_job_continues(tmp_path, cluster, database, undisturbed):
    # Only the stop writes checkpoints.
    laptop = Submitter(tmp_path, cluster, database, WIDE)
    gate = laptop.add_gate(tmp_path / "gate", 3)
    job = laptop.submit("--checkpoint-every", "1000")
    following = laptop.start("logs", "-f", job)
    wait_for(following, lambda: gate.waiting() == 2)
    assert laptop.stop(gate, 4) == f"{job} stopped\n"
    rest(following)
    states = laptop.states()
    assert states.count("finished") == 1
    assert states.count("cancelled") == 8
    store = Store(laptop.store)
    epochs = [record.epochs[-1].epoch for cell in store.cell_ids() if (record := store.record(cell))]
    assert sorted(epochs) == [2] + [4] * 8
    gate.open()
    assert laptop.submit("--checkpoint-every", "1000").endswith("-2")
    out, _ = laptop.run("logs", "-f")
    assert "8 cells trained" in out
    assert laptop.table() == undisturbed(WIDE)


def test_run_with_a_node_without_the_package_fails_in_one_line(tmp_path, cluster, database):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pld_grid'] = None\n")
    bare = dataclasses.replace(cluster, environment=cluster.environment | {"PYTHONPATH": str(tmp_path)})
    bare.start("bare", *bare.worker_options)
    laptop = Submitter(tmp_path / "laptop", cluster, database)
    try:
        out, err = laptop.run("run", "--address", f"127.0.0.1:{cluster.port}", code=2)
    finally:
        cluster.kill("bare")
    assert out == ""
    assert err.startswith("error: Ray's node bare cannot import pld_grid.orchestrate.trial (ModuleNotFoundError: ")
    assert err.count("\n") == 1
    assert laptop.states() == []


def test_killed_node_costs_one_checkpoint_interval(tmp_path, cluster, database):
    laptop = Submitter(tmp_path, cluster, database, LONG)
    cluster.start("spare", *cluster.worker_options)
    laptop.submit("--cohort-size", "3")
    following = laptop.start("logs", "-f")
    store = Store(laptop.store)

    def have_all_checkpoints() -> bool:
        records = [store.record(cell) for cell in store.cell_ids()]
        return sum(record is not None and bool(record.epochs) for record in records) == 9

    wait_for(following, have_all_checkpoints)
    before = {cell: record.epochs for cell in store.cell_ids() if (record := store.record(cell))}
    cluster.kill("spare")
    out, _ = following.communicate(timeout=RETRY_TIMEOUT_SECONDS)
    assert following.returncode == 0
    assert "9 cells trained" in out
    assert "a worker died; its cohort continues from its checkpoints" in out
    for cell, epochs in before.items():
        receipt = store.receipt(cell)
        # Epochs before the checkpoint were not repeated.
        assert receipt.epochs[: len(epochs)] == epochs
    assert cluster.alive() == {"head", "worker-1", "worker-2"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"RAY_AUTH_TOKEN": "x" * 40}, "the token is wrong"), ({"RAY_AUTH_MODE": "disabled"}, "it wants a token")],
)
def test_wrong_or_missing_token_fails_in_one_line(tmp_path, cluster, database, changed, message):
    laptop = Submitter(tmp_path, cluster, database)
    laptop.environment |= changed
    for command in ("submit", "list"):
        out, err = laptop.run(command, code=2)
        assert out == ""
        assert err.startswith(f"error: Ray at {cluster.dashboard}: {message}")
        assert err.count("\n") == 1
        assert "x" * 40 not in err


def test_unreachable_address_fails_in_one_line(tmp_path, cluster, database):
    laptop = Submitter(tmp_path, cluster, database)
    port = free_port()
    for command, address in (("submit", f"http://127.0.0.1:{port}"), ("run", f"127.0.0.1:{port}")):
        _, err = laptop.run(command, "--address", address, code=2)
        assert err == f"error: Ray at {address}: cannot be reached (connection refused)\n"


def test_submit_with_results_inside_the_job_is_refused(tmp_path, cluster, database):
    laptop = Submitter(tmp_path, cluster, database)
    for arguments, message in (
        (("--store", "results"), "--store: results would end with the job"),
        (("--report", "tables"), "--report: tables would end with the job"),
        (("--tracking-uri", "http://me:secret@127.0.0.1:5000"), "a job's command can be read by all"),
        (("--tracking-uri", f"sqlite:///{tmp_path}/.pld_grid/mlflow.db"), "give an MLflow that the cluster reaches"),
        (("--cohort-size", "none"), "Invalid value for '--cohort-size'"),
    ):
        _, err = laptop.run("submit", *arguments, code=2)
        assert message in err
        assert "secret" not in err
    assert not laptop.store.exists()


def test_ctrl_c_while_following_logs_leaves_the_job_running(tmp_path, cluster, database):
    laptop = Submitter(tmp_path, cluster, database)
    gate = laptop.add_gate(tmp_path / "gate", 3)
    job = laptop.submit()
    following = laptop.start("logs", "-f", job)
    wait_for(following, lambda: Store(laptop.store).cell_ids())
    following.send_signal(signal.SIGINT)
    rest(following)
    assert re.search(r"state +running", laptop.run("status", job)[0])
    assert laptop.stop(gate, 4) == f"{job} stopped\n"
