"""The whole way through the front door: real Ray, real sqlite MLflow, real processes being killed."""

import json
import re
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest
from living import all_gone, details, family, kill, listening, name, terminate
from ports import free_port
from service import GRID, PROFILE, Service, answer, rest, wait_for, wait_for_line

from pld_grid import schedule, track
from pld_grid.store import Progress, Store


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its schema takes MLflow ten seconds to make."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    track.prepare_database(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A grid that ran without trouble."""
    service = Service(tmp_path_factory.mktemp("undisturbed"))
    out, err = service.run("run", "--report", "tables", "--show")
    assert "9 cells trained" in err
    assert re.search(r"^tables: (\d+ files written|up to date)$", out, re.MULTILINE)
    assert "Losses under two optimizers" in out
    return service


@pytest.fixture(scope="module")
def expected(undisturbed: Service) -> bytes:
    """The table of the undisturbed run."""
    return undisturbed.tables()["losses.csv"]


def _runs(service: Service) -> dict[str, list[tuple[str, ...]]]:
    """MLflow's rows, read behind its back: the runs' states and the metrics' (run, key, step)."""
    with sqlite3.connect(service.folder / ".pld_grid" / "mlflow.db") as connection:
        return {
            "runs": connection.execute("select run_uuid, status from runs").fetchall(),
            "top1": connection.execute("select run_uuid, step from metrics where key = 'top1'").fetchall(),
        }


def _progress(store: Store) -> list[Progress]:
    """All that the store knows of cells."""
    return [progress for cell in store.cell_ids() if (progress := store.progress(cell)) is not None]


def students_train(store: Store) -> bool:
    """Whether one has got as far as an epoch, after the teacher has finished."""
    return any(found.state == "unfinished" and found.epochs for found in _progress(store))


def test_the_tables_are_the_same_from_the_store_and_from_mlflow(undisturbed: Service, expected: bytes) -> None:
    assert b"-," not in expected.split(b"\n")[1].split(b"KL")[0][:40]
    store, mlflow = undisturbed.tables("store"), undisturbed.tables("mlflow")
    assert store == mlflow
    assert set(store) == {
        "README.md", "index.html", "losses.csv", "losses.md", "losses.tex", "provenance.csv", "records.jsonl",
        *(f"figures/{name}.{kind}" for name in ("curves_losses", "cost") for kind in ("svg", "png", "csv")),
    }  # fmt: skip
    out, _ = undisturbed.run("report", "--from", "mlflow", "--out", str(undisturbed.folder / "report-store"))
    assert "up to date" in out


def test_mlflow_has_one_run_per_cell_and_one_for_the_submission(undisturbed: Service) -> None:
    rows = _runs(undisturbed)
    assert len(rows["runs"]) == 9 + 1
    assert {status for _, status in rows["runs"]} == {"FINISHED"}
    assert len(rows["top1"]) == len(set(rows["top1"])) == 2 + 8 * 6


def test_a_second_run_trains_nothing_and_says_so(undisturbed: Service) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.store.rglob("receipt.json")}
    _, err = undisturbed.run("run")
    assert "Nothing to train: all 9 cells are finished." in err
    assert {p: p.stat().st_mtime_ns for p in undisturbed.store.rglob("receipt.json")} == before
    assert len(_runs(undisturbed)["runs"]) == 10


def test_ui_serves_the_runs_on_this_machine_only(undisturbed: Service) -> None:
    port = free_port()
    process = undisturbed.start("ui", "--port", str(port))
    try:
        url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=pld_grid"
        found = json.loads(answer(process, url))["experiment"]
        assert found["name"] == "pld_grid"
        assert {address for each in family(process) for address, _ in listening(each)} == {"127.0.0.1"}
    finally:
        started = family(process)
        process.send_signal(signal.SIGINT)
        terminate(started)
        process.communicate()
    assert all_gone(started), details(started)


def test_killed_at_any_moment_a_run_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, database: Path, expected: bytes
) -> None:
    service = Service(tmp_path, database=database)
    # The driver alone, when the teacher is done; then all processes at once, when students have a checkpoint.
    process = service.start("run")
    teacher = service.store / wait_for_line(process, "[1/9] finished").split()[2]
    started = family(process)
    process.kill()
    rest(process)
    process = service.start("run")
    wait_for(process, lambda: list(service.store.glob("*/checkpoints/000002.json")))
    processes = family(process)
    for each in (psutil.Process(process.pid), *processes):
        kill(each)
    rest(process)
    finished = {p: p.stat().st_mtime_ns for p in service.store.rglob("receipt.json")}
    assert teacher / "receipt.json" in finished
    assert len(finished) < 9
    # And the teacher's weights lose a byte: it has to be trained again, its students go on.
    weights = (teacher / "weights.safetensors").read_bytes()
    (teacher / "weights.safetensors").write_bytes(weights[:-1])
    _, err = service.run("run")
    assert f"{9 - len(finished) + 1} cells trained" in err
    assert (teacher / "weights.safetensors").read_bytes() == weights
    del finished[teacher / "receipt.json"]
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert service.tables()["losses.csv"] == expected
    rows = _runs(service)
    assert len(rows["top1"]) == len(set(rows["top1"])) == 2 + 8 * 6
    assert [status for _, status in rows["runs"]].count("FINISHED") >= 9 + 1
    assert all_gone(started + processes), details(started)


def test_a_killed_worker_is_started_again_with_the_same_numbers(
    tmp_path: Path, database: Path, expected: bytes
) -> None:
    service = Service(tmp_path, database=database)
    process = service.start("run")
    wait_for_line(process, "[1/9] finished")
    store = Store(service.store)
    wait_for(process, lambda: students_train(store))
    trials = [p for p in family(process) if name(p).startswith("ray::ImplicitFunc")]
    assert trials
    for trial in trials:
        kill(trial)
    err = rest(process)
    assert process.returncode == 0, err
    assert "9 cells trained" in err
    assert "Traceback" not in err
    assert service.tables()["losses.csv"] == expected


def test_a_worker_that_always_dies_fails_its_cells_and_no_others(tmp_path: Path, database: Path) -> None:
    # A model whose making ends the process, as the kernel does with one that eats all memory.
    profile = PROFILE.replace("models:", "models:\n  deadly: {architecture: test_resnet, options: {output_stride: 32}}")
    grid = "cells: {student: [small, deadly], epochs: 1, loss: ce}"
    service = Service(tmp_path, database=database, profile=profile, grid=grid)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, timm, torch\n"
        "made = timm.create_model\n"
        # Its size, which the driver asks for, takes no memory.
        "deadly = lambda k: 'output_stride' in k and torch.get_default_device().type != 'meta'\n"
        "timm.create_model = lambda *a, **k: os._exit(1) if deadly(k) else made(*a, **k)\n"
    )
    service.environment["PYTHONPATH"] = str(tmp_path)
    # In one slot on any machine with two cores, so that both are one cohort.
    _, err = service.run("run", "--cpus-per-cohort", str(schedule.local_cpus()), code=1)
    # Three retries of the cohort of two, then one of the deadly half.
    assert err.count("a worker died; its cohort goes on from its checkpoints") == 4
    assert "split in two: its worker died 4 times" in err
    assert "its worker died 2 times" in err
    assert "1 cells trained" in err


def test_a_calibration_prices_the_plan(tmp_path: Path, database: Path) -> None:
    service = Service(tmp_path, database=database)
    out, _ = service.run("plan")
    assert "cost: not known yet" in out
    out, _ = service.run("calibrate")
    measured = int(out.split(" parts measured")[0].split()[-1])
    assert measured > 3
    out, _ = service.run("calibrate")
    assert f"0 parts measured, {measured} known" in out
    plan = json.loads(service.run("plan", "--json", "--slots", "1")[0])
    costs = {name: found["cpu_hours"] for name, found in plan["costs"].items()}
    assert 0 < costs["as planned"] < costs["without cohorts"]
    assert plan["costs"]["as planned"]["seconds"] > 3600 * costs["as planned"]
    _, err = service.run("plan", "--device", "Abacus", code=2)
    assert 'no calibration of "Abacus"' in err
    _, err = service.run("run")
    assert "9 cells to train, about" in err


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_waits_for_an_epoch_no_longer_than_its_grace_or_a_second_one(
    tmp_path: Path, database: Path, twice: bool
) -> None:
    grid = "cells: {student: big, epochs: 500, loss: ce}"
    # One epoch of it takes minutes.
    slow = PROFILE.replace("test_resnet}", "resnet152}").replace("image_size: 8", "image_size: 64")
    service = Service(tmp_path, database=database, profile=slow, grid=grid)
    process = service.start("run", "--grace", "3600" if twice else "0.1")
    begun = service.store
    wait_for(process, lambda: list(begun.glob("*/cell.json")))
    process.send_signal(signal.SIGINT)
    if twice:
        wait_for_line(process, "stopping after the running epochs, within 3600 s")
        process.send_signal(signal.SIGINT)
    rest(process)
    assert process.returncode == 130
    states = [p.state for cell in Store(begun).cell_ids() if (p := Store(begun).progress(cell)) is not None]
    assert states == ["cancelled"]


def test_ctrl_c_keeps_checkpoints_and_leaves_no_process(tmp_path: Path, database: Path) -> None:
    # The long students cannot be finished when the signal arrives, however late it is.
    cells = """
cells:
  - {teacher: big, student: small, epochs: 1, loss: [ce, kd], optimizer: [adamw, lamb]}
  - {teacher: big, student: small, epochs: 500, loss: [dist, pld], optimizer: [adamw, lamb]}
"""
    service = Service(tmp_path, database=database, grid=cells + GRID[GRID.index("table:") :])
    store = Store(service.store)
    process = service.start("run")
    wait_for_line(process, "[1/9] finished")
    wait_for(process, lambda: students_train(store))
    started = family(process)
    process.send_signal(signal.SIGINT)
    err = rest(process)
    assert process.returncode == 130, err
    assert "stopping after the running epochs" in err
    assert "checkpoints are kept" in err
    assert "Traceback" not in err
    assert all_gone(started), details(started)
    states = [progress.state for progress in _progress(store)]
    assert "cancelled" in states
    assert set(states) <= {"finished", "cancelled"}
    assert b"cancelled" in service.tables()["losses.csv"]


def test_without_mlflow_training_goes_on_and_sync_brings_it_up_to_date(
    tmp_path: Path, database: Path, expected: bytes
) -> None:
    service = Service(tmp_path, database=database)
    _, err = service.run("run", "--tracking-uri", "http://127.0.0.1:9")
    assert "9 cells trained" in err
    assert "pld-grid sync" in err
    assert service.tables()["losses.csv"] == expected
    out, _ = service.run("sync")
    assert "10 runs brought up to date" in out
    assert "up to date" in service.run("sync")[0]
    rows = _runs(service)
    assert len(rows["top1"]) == len(set(rows["top1"])) == 2 + 8 * 6
    assert service.tables("store") == service.tables("mlflow")


def test_what_fails_is_said_not_retried_and_harms_nothing_else(tmp_path: Path, database: Path) -> None:
    profile = PROFILE.replace(
        "models:",
        "models:\n"
        "  odd: {architecture: test_vit, options: {img_size: 8, patch_size: 5}}\n"
        # No such share of numbers can be dropped, which only a step in training shows.
        "  broken: {architecture: test_resnet, options: {drop_rate: 2}}",
    )
    grid = """
cells:
  - {teacher: big, student: [small, odd], epochs: 1, loss: [kd, pld]}
  - {teacher: broken, student: small, epochs: 2, loss: [ce, kd]}
"""
    service = Service(tmp_path, database=database, profile=profile, grid=grid)
    _, err = service.run("run", code=1)
    # The good teacher, two of its students, and the student that needs no teacher.
    assert "4 cells trained" in err
    assert "error: 4 cells failed; the same command tries them again" in err
    assert err.count("AssertionError") == 2
    assert err.count("its teacher") == 1
    table = service.tables()["losses.md"].decode()
    assert "failed" in table
    assert "its teacher" in table
    assert service.tables("mlflow") == service.tables("store")
