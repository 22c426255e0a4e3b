"""Drivers that are killed: the next command ends what MLflow still calls running."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from counting import DRIVER_WITH_ALL, Count
from living import all_gone, details, family, kill
from service import Service, rest, wait_for

from pld_grid.store import Store

# It cannot be finished when the driver is killed, however late that is.
GRID = "cells: {student: small, epochs: 500, loss: ce}"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Service:
    """Somebody whose driver was killed with all its workers, in the middle of a cell that MLflow knew of."""
    service = Service(tmp_path_factory.mktemp("killed"), grid=GRID, database=database)
    process = service.start("run")
    wait_for(
        process, lambda: all(list(service.store.glob(f"*/{name}")) for name in ("mirror.json", "checkpoints/*.json"))
    )
    started = family(process)
    for each in (psutil.Process(process.pid), *started):
        kill(each)
    rest(process)
    assert all_gone(started), details(started)
    return service


def _runs(service: Service, kind: str) -> list[str]:
    """The states of MLflow's runs of cells or of submissions, oldest first."""
    sql = "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = ? ORDER BY start_time"
    with closing(sqlite3.connect(service.folder / ".pld_grid" / "mlflow.db")) as connection:
        return [status for (status,) in connection.execute(sql, (f"pld_grid.{kind}_id",))]


def test_nothing_stays_running_after_a_driver_was_killed(killed: Service, count: Count) -> None:
    assert _runs(killed, "submission") == _runs(killed, "cell") == ["RUNNING"]
    assert killed.run("sync")[0] == "2 runs brought up to date\n"
    assert _runs(killed, "submission") == ["FAILED"]
    assert _runs(killed, "cell") == ["KILLED"]
    assert killed.run("sync")[0] == "MLflow is up to date\n"
    # What it trained is kept, and it holds nothing any more.
    (progress,) = [Store(killed.store).progress(cell) for cell in Store(killed.store).cell_ids()]
    assert progress is not None
    assert progress.state == "unfinished"
    count.kill(DRIVER_WITH_ALL)
