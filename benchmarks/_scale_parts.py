"""Parts of benchmarks/scale.py: a large grid, a filled store and MLflow database, timed processes."""

import math
import os
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

# Test helpers that write receipts and checkpoints with synthetic numbers through the store itself.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from cells import begin, finish

from pld_grid.experiment.cell import Cell
from pld_grid.store import CellRecord, Mirror, Store
from pld_grid.track import run_content
from pld_grid.track.parent_runs import ParentRun
from pld_grid.track.tracker import Tracker

POINTS = 100  # cells per seed in the grid below
NAME = "scale"
LAUNCH = """
import os, pathlib, sys
peak_file, exit = pathlib.Path(sys.argv.pop(1)), os._exit
def record_peak_and_exit(code):
    peak_file.write_text(pathlib.Path("/proc/self/status").read_text())
    exit(code)
os._exit = record_peak_and_exit
from pld_grid.cli import script
script()
"""


def grid_text(cells: int) -> str:
    """Return the YAML of a grid of `cells` students (a multiple of POINTS) and one teacher."""

    def values(first: float, last: float, number: int) -> list[float]:
        return [round(first + (last - first) * i / (number - 1), 4) for i in range(number)]

    return f"""cells:
  teacher: ResNet-152
  student: ResNet-50
  loss: [ce, kd, dist, pld]
  hyperparameters:
    kd: {{alpha: {values(0, 0.9, 10)}, tau: {values(1, 5, 5)}}}
    dist: {{alpha: {values(0, 0.8, 5)}, beta: {values(0.1, 0.9, 5)}}}
    pld: {{tau: {values(0.25, 6, 24)}}}
  seed: {list(range(cells // POINTS))}
"""


@dataclass(frozen=True)
class Usage:
    """The seconds until a command printed a line and until its end, its CPU seconds and its peak MiB."""

    decided: float
    seconds: float
    cpu: float
    peak: float
    lines: str


def pld_grid(folder: Path, *arguments: str, until: str = "\n") -> Usage:
    """Run `pld-grid`, including interpreter start and imports; time when a line with `until` is on standard error."""
    peak = folder / f"peak-{uuid.uuid4().hex[:8]}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PLD_GRID_"))}
    started, decided, lines = time.perf_counter(), float("nan"), ""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(peak), *arguments],
        cwd=folder,
        env=kept | {"HOME": str(folder), "PLD_GRID_COMMIT": "0123abc", "COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            lines += line
            if until in line and math.isnan(decided):
                decided = time.perf_counter() - started
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"pld-grid {arguments[0]} ended with {process.returncode}:\n{lines}")
    # Not `usage.ru_maxrss`, which on Linux includes the memory of the parent process at the fork.
    match = re.search(r"VmHWM:\s+(\d+) kB", peak.read_text())
    assert match is not None
    return Usage(decided, seconds, usage.ru_utime + usage.ru_stime, int(match[1]) / 1024, lines)


def without_fsync() -> Any:
    """Skip fsync while synthetic data is written, which can be written again."""
    return mock.patch("os.fsync")


def finish_all(store: Store, cells: Iterable[Cell]) -> None:
    """Write receipts, with all epochs' metrics, and (tiny) weights of the cells that the store lacks."""
    present = store.cell_ids()
    with without_fsync():
        for cell in cells:
            if cell.cell_id not in present:
                finish(store, cell)


def checkpoint_all(store: Store, cells: Iterable[Cell], epoch: int) -> None:
    """Write the checkpoints that workers write after an epoch."""
    with without_fsync():
        for cell in cells:
            begin(store, cell, epoch)


def mirror_all(tracker: Tracker, database: Path, cells: dict[str, Cell], sample: int) -> float:
    """Log a sample of the cells by the tracker, and the others as rows written in one transaction.

    Return the seconds per cell of the sample. Check that both ways give the same rows, and that the tracker then has
    nothing left to do.
    """
    parent = ParentRun(name=NAME, profile="digits", cells=dict.fromkeys(cells, (NAME,)), trained=())
    tracker.parent_runs.end(tracker.parent_runs.start(parent), "finished")
    with without_fsync():
        tracker.sync(parent.submission_id)
        missing = [i for i in cells if tracker.store.mirror(i) is None]
        synced, rest = missing[:sample], missing[sample:]
        started = time.perf_counter()
        for cell_id in synced:
            tracker.sync(cell_id)
        seconds = (time.perf_counter() - started) / len(synced)
        with closing(sqlite3.connect(database)) as connection:
            _check(connection, tracker.store, synced)
            _write(connection, tracker, rest)
    left = tracker.outdated()
    if left:
        raise SystemExit(f"the written rows differ from the tracker's: {len(left)} cells are outdated")
    return seconds


def _finished(store: Store, cell_id: str) -> tuple[Cell, CellRecord]:
    """Return a finished cell with its record, as the tracker reads them."""
    progress = store.record(cell_id)
    assert progress is not None and progress.receipt is not None
    return progress.receipt.cell, progress


def _rows(cell: Cell, progress: CellRecord, run_id: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the rows of a finished cell's run in each table except `runs`."""
    tags = run_content.make_tags(cell, progress) | {
        run_content.GRIDS: NAME,
        run_content.PROFILE: "digits",
        run_content.LOGGED: str(progress.epochs[-1].epoch),
        "mlflow.runName": run_content.make_run_name(cell),
    }
    yield from (("tags", (key, value, run_id)) for key, value in tags.items())
    yield from (("params", (key, value, run_id)) for key, value in run_content.make_params(cell).items())
    for epoch in progress.epochs:
        milliseconds = int(epoch.time * 1000)
        for name, value in epoch.metrics.items():
            yield "metrics", (name, value, milliseconds, run_id, epoch.epoch, False)
            if epoch is progress.epochs[-1]:
                yield "latest_metrics", (name, value, milliseconds, epoch.epoch, False, run_id)


def _check(connection: sqlite3.Connection, store: Store, synced: list[str]) -> None:
    """Stop unless `_rows` gives the same rows that the tracker wrote."""
    for cell_id in synced[:: max(1, len(synced) // 5)]:
        mirror = store.mirror(cell_id)
        assert mirror is not None
        expected = sorted(_rows(*_finished(store, cell_id), mirror.run_id), key=repr)
        actual = [
            (table, tuple(bool(v) if name == "is_nan" else v for name, v in zip(_columns(cursor), row, strict=True)))
            for table in ("tags", "params", "metrics", "latest_metrics")
            for cursor in [connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (mirror.run_id,))]
            for row in cursor
        ]
        if sorted(actual, key=repr) != expected:
            raise SystemExit(f"MLflow's rows of cell {cell_id} differ from the rows that this benchmark would write")


def _columns(cursor: sqlite3.Cursor) -> list[str]:
    return [column[0] for column in cursor.description]


def _write(connection: sqlite3.Connection, tracker: Tracker, cell_ids: list[str]) -> None:
    """Write the rows of cells that MLflow lacks in one transaction, and the store's mirror notes."""
    cursor = connection.execute("SELECT * FROM runs WHERE name != ? LIMIT 1", (NAME,))
    template = dict(zip(_columns(cursor), cursor.fetchone(), strict=True))
    rows: dict[str, list[tuple[Any, ...]]] = {"runs": []}
    for cell_id in cell_ids:
        cell, progress = _finished(tracker.store, cell_id)
        run_id = uuid.uuid4().hex
        own = {
            "run_uuid": run_id,
            "name": run_content.make_run_name(cell),
            "artifact_uri": template["artifact_uri"].replace(template["run_uuid"], run_id),
        }
        rows["runs"].append(tuple((template | own).values()))
        for table, row in _rows(cell, progress, run_id):
            rows.setdefault(table, []).append(row)
        assert progress.receipt is not None
        folder = Path(own["artifact_uri"].removeprefix("file://"))
        folder.mkdir(parents=True)
        (folder / run_content.RECEIPT_FILE).write_bytes(
            run_content.make_artifacts(progress.receipt)[run_content.RECEIPT_FILE]
        )
        note = Mirror(
            tracking_uri=tracker.address,
            run_id=run_id,
            experiment_id=str(template["experiment_id"]),
            epochs=len(progress.epochs),
            state=progress.state,
        )
        tracker.store.write_mirror(cell_id, note)
    for table, values in rows.items():
        places = ", ".join("?" for _ in values[0]) if values else ""
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", values)
    connection.commit()
