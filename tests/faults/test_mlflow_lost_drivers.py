"""Killed drivers: the next command ends their runs in MLflow."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from cli_process import Service, rest, wait_for
from fault_counts import DRIVER_WITH_ALL
from live_processes import describe_processes, have_exited, kill, list_descendants

from pld_grid.store import Store

# So many epochs that the cell cannot be finished when the driver is killed.
GRID = "cells: {student: small, epochs: 500, loss: ce}"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Service:
    """Kill a driver with all its workers, in the middle of a cell that has a run."""
    service = Service(tmp_path_factory.mktemp("killed"), grid=GRID, database=database)
    process = service.start("run")
    wait_for(
        process, lambda: all(list(service.store.glob(f"*/{name}")) for name in ("mirror.json", "checkpoints/*.json"))
    )
    started = list_descendants(process)
    for each in (psutil.Process(process.pid), *started):
        kill(each)
    rest(process)
    assert have_exited(started), describe_processes(started)
    return service


def _runs(service: Service, kind: str) -> list[str]:
    """Return MLflow's states of the cells or parent runs, oldest first."""
    sql = "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = ? ORDER BY start_time"
    with closing(sqlite3.connect(service.folder / ".pld_grid" / "mlflow.db")) as connection:
        return [status for (status,) in connection.execute(sql, (f"pld_grid.{kind}_id",))]


def test_sync_killed_driver_leaves_no_running_runs(killed, count):
    assert _runs(killed, "submission") == _runs(killed, "cell") == ["RUNNING"]
    assert killed.run("sync")[0] == "2 runs brought up to date\n"
    assert _runs(killed, "submission") == ["FAILED"]
    assert _runs(killed, "cell") == ["KILLED"]
    assert killed.run("sync")[0] == "MLflow is up to date\n"
    # Its checkpoint is kept, and its claim has ended.
    (progress,) = [Store(killed.store).record(cell) for cell in Store(killed.store).cell_ids()]
    assert progress.state == "unfinished"
    count.kill(DRIVER_WITH_ALL)
