"""Complete runs of the command line: real Ray, real sqlite MLflow, killed processes."""

import json
import re
import signal
import sqlite3

import pytest
from cli_process import PROFILE, Service, answer, rest, wait_for, wait_for_line
from live_processes import list_descendants, listening_addresses
from mlflow_servers import ui_server

from pld_grid.orchestrate.resources import local_cpus
from pld_grid.store import Store


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Return a grid that ran without a fault."""
    service = Service(tmp_path_factory.mktemp("undisturbed"))
    out, err = service.run("run", "--report", "tables", "--show")
    assert "9 cells trained" in err
    assert err.startswith(f"new store: {service.store} (another place: --store)\n")
    assert re.search(r"^tables: (\d+ files written|up to date)$", out, re.MULTILINE)
    assert "Losses under two optimizers" in out
    return service


@pytest.fixture(scope="module")
def expected(undisturbed: Service) -> bytes:
    """Return the table of the undisturbed run."""
    return undisturbed.tables()["losses.csv"]


def _runs(service: Service) -> dict[str, list[tuple[str, ...]]]:
    """Return rows of MLflow's database: runs with their states, and (run, step) of the metric top1."""
    with sqlite3.connect(service.folder / ".pld_grid" / "mlflow.db") as connection:
        return {
            "runs": connection.execute("select run_uuid, status from runs").fetchall(),
            "top1": connection.execute("select run_uuid, step from metrics where key = 'top1'").fetchall(),
        }


@pytest.mark.ray
def test_tables_from_store_and_mlflow_are_equal(undisturbed, expected):
    assert b"-," not in expected.split(b"\n")[1].split(b"KL")[0][:40]
    store, mlflow = undisturbed.tables("store"), undisturbed.tables("mlflow")
    assert store == mlflow
    assert set(store) == {
        ".report-files",
        "README.md",
        "index.html",
        "losses.csv",
        "losses.md",
        "losses.tex",
        "provenance.csv",
        "records.jsonl",
        *(f"figures/{name}.{kind}" for name in ("curves_losses", "cost") for kind in ("svg", "png", "csv")),
    }
    out, _ = undisturbed.run("report", "--from", "mlflow", "--out", str(undisturbed.folder / "report-store"))
    assert "up to date" in out


@pytest.mark.ray
def test_mlflow_has_one_run_per_cell_and_one_parent(undisturbed):
    rows = _runs(undisturbed)
    assert len(rows["runs"]) == 9 + 1
    assert {status for _, status in rows["runs"]} == {"FINISHED"}
    assert len(rows["top1"]) == len(set(rows["top1"])) == 2 + 8 * 6


@pytest.mark.ray
def test_second_run_trains_nothing(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.store.rglob("receipt.json")}
    _, err = undisturbed.run("run")
    assert "Nothing to train: all 9 cells are finished." in err
    assert {p: p.stat().st_mtime_ns for p in undisturbed.store.rglob("receipt.json")} == before
    assert len(_runs(undisturbed)["runs"]) == 10


@pytest.mark.ray
def test_ui_listens_on_loopback_only(undisturbed):
    with ui_server(undisturbed) as (address, process):
        url = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=pld_grid"
        assert json.loads(answer(process, url))["experiment"]["name"] == "pld_grid"
        hosts = {host for each in list_descendants(process) for host, _ in listening_addresses(each)}
        assert hosts == {"127.0.0.1"}


@pytest.mark.ray
def test_worker_that_always_dies_fails_only_its_cells(tmp_path, database):
    # Building this model kills the process, as the kernel does when memory runs out.
    profile = PROFILE.replace("models:", "models:\n  deadly: {architecture: test_resnet, options: {output_stride: 32}}")
    grid = "cells: {student: [small, deadly], epochs: 1, loss: ce}"
    service = Service(tmp_path, database=database, profile=profile, grid=grid)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, timm, torch\n"
        "made = timm.create_model\n"
        # The driver builds it without memory to estimate its size.
        "deadly = lambda k: 'output_stride' in k and torch.get_default_device().type != 'meta'\n"
        "timm.create_model = lambda *a, **k: os._exit(1) if deadly(k) else made(*a, **k)\n"
    )
    service.environment["PYTHONPATH"] = str(tmp_path)
    # One slot on any machine, so that both students are in one cohort.
    _, err = service.run("run", "--cpus-per-cohort", str(local_cpus()), code=1)
    # Three retries of the cohort of two, then one of the deadly half.
    assert err.count("a worker died; its cohort continues from its checkpoints") == 4
    assert "split in two: its worker died 4 times" in err
    assert "its worker died 2 times" in err
    assert "1 cells trained" in err


@pytest.mark.ray
def test_calibration_gives_the_plan_a_cost(tmp_path, database):
    service = Service(tmp_path, database=database)
    out, _ = service.run("plan")
    assert "cost: not known yet" in out
    out, _ = service.run("calibrate")
    measured = int(out.split(" parts measured")[0].split()[-1])
    assert measured > 3
    out, _ = service.run("calibrate")
    assert f"0 parts measured, {measured} known" in out
    plan = json.loads(service.run("plan", "--json", "--slots", "1")[0])
    costs = {name: cost["cpu_hours"] for name, cost in plan["costs"].items()}
    assert 0 < costs["as planned"] < costs["without cohorts"]
    assert plan["costs"]["as planned"]["seconds"] > 3600 * costs["as planned"]
    _, err = service.run("plan", "--device", "Abacus", code=2)
    assert 'no calibration of "Abacus"' in err
    _, err = service.run("run")
    assert "9 cells to train, about" in err


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.ray
def test_ctrl_c_stops_after_the_grace_period_or_at_the_second(tmp_path, database, twice):
    grid = "cells: {student: big, epochs: 500, loss: ce}"
    # One epoch takes minutes.
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
    states = [p.state for cell in Store(begun).cell_ids() if (p := Store(begun).record(cell)) is not None]
    assert states == ["cancelled"]


@pytest.mark.ray
def test_training_without_mlflow_is_synced_later(tmp_path, database, expected):
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


@pytest.mark.ray
def test_failing_cells_are_reported_and_do_not_affect_others(tmp_path, database):
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
