"""A user whose MLflow fails, and what must hold after it has recovered."""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from cli_process import PROFILE, Service
from sqlalchemy import create_engine, text

from pld_grid.service import mirroring
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store

GRID = """
cells: {teacher: big, student: small, epochs: 4, loss: [ce, kd, pld]}
table:
  title: Losses
  rows: [loss]
  columns: [{header: Loss, axis: loss}, {header: Top-1, metric: top1}, {header: KL, metric: kl_teacher_student}]
"""
CELLS = 4  # with the teacher


class Client(Service):
    """Runs `pld-grid` with a given MLflow, in an experiment of its own."""

    def __init__(self, folder: Path, uri: str, *, grid: str = GRID) -> None:
        super().__init__(folder, profile=PROFILE, grid=grid)
        self.environment["MLFLOW_TRACKING_URI"] = self.uri = uri

    def start(self, command: str, *arguments: str) -> "subprocess.Popen[str]":
        return super().start(command, "--experiment", self.folder.name, *arguments)


def _query(database: str, sql: str, experiment: str) -> list[tuple[Any, ...]]:
    where = "JOIN experiments e USING (experiment_id) WHERE e.name = :name AND r.lifecycle_stage = 'active'"
    engine = create_engine(database)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(f"{sql} {where}"), {"name": experiment})]
    engine.dispose()
    return rows


def assert_mirrored(store: Store, experiment: str, database: str) -> None:
    """Check that each metric is logged once, and that each cell and parent run has one run, which has ended."""
    sql = "SELECT t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'pld_grid.{}_id'"
    cells = _query(database, sql.format("cell"), experiment)
    receipts = {cell_id: store.receipt(cell_id) for cell_id in store.cell_ids()}
    assert receipts
    assert Counter(cells) == Counter((cell_id, "FINISHED") for cell_id in receipts)
    submissions = _query(database, sql.format("submission"), experiment)
    assert len(submissions) == len(set(submissions)) == len(store.names("submissions"))
    assert {status for _, status in submissions} <= {"FINISHED"}
    sql = "SELECT t.value, m.key, m.step, m.value FROM metrics m JOIN runs r ON m.run_uuid = r.run_uuid "
    logged = _query(database, sql + "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'pld_grid.cell_id'", experiment)
    assert Counter(logged) == Counter(
        (cell_id, name, record.epoch, value)
        for cell_id, receipt in receipts.items()
        if receipt is not None
        for record in receipt.epochs
        for name, value in record.metrics.items()
    )


def assert_synced(client: Client) -> None:
    """Sync, and check that nothing is left to sync."""
    client.run("sync")
    assert mirroring.sync(Workspace(str(client.store), client.uri, client.folder.name)) == 0


def mlflow_lines(err: str) -> list[str]:
    """Return the lines of standard error about MLflow."""
    assert "Traceback" not in err
    return [line for line in err.splitlines() if "MLflow" in line]
