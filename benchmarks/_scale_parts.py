"""What benchmarks/scale.py stands on: a big grid, a store and an MLflow that are full already, timed processes."""

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

# The helpers that tests make receipts and checkpoints with are the store's own writers with made-up numbers.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cells import begin, finish

from pld_grid.spec import Cell
from pld_grid.store import Mirror, Progress, Store
from pld_grid.track import Tracker, content

POINTS = 100  # what the grid below has per seed
NAME = "scale"
LAUNCH = """
import os, pathlib, sys
peak, leave = pathlib.Path(sys.argv.pop(1)), os._exit
def note_and_leave(code):
    peak.write_text(pathlib.Path("/proc/self/status").read_text())
    leave(code)
os._exit = note_and_leave
from pld_grid.cli import script
script()
"""


def grid_text(cells: int) -> str:
    """A grid of so many students (a multiple of POINTS) and one teacher."""

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
class Spent:
    """What a command took: seconds until a line was said and until the end, CPU seconds, peak MiB."""

    said: float
    seconds: float
    cpu: float
    peak: float
    lines: str


def pld_grid(folder: Path, *arguments: str, until: str = "\n") -> Spent:
    """Runs `pld-grid`, interpreter start and imports included; `until` is looked for on standard error."""
    peak = folder / f"peak-{uuid.uuid4().hex[:8]}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PLD_GRID_"))}
    started, said, lines = time.perf_counter(), float("nan"), ""
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
            if until in line and said != said:
                said = time.perf_counter() - started
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"pld-grid {arguments[0]} ended with {process.returncode}:\n{lines}")
    # Not `usage.ru_maxrss`: Linux counts in what the starting process had at the time.
    found = re.search(r"VmHWM:\s+(\d+) kB", peak.read_text())
    assert found is not None
    return Spent(said, seconds, usage.ru_utime + usage.ru_stime, int(found[1]) / 1024, lines)


def undisturbed() -> Any:
    """While data is made up, nobody waits for a disk: what a power cut would take can be made again."""
    return mock.patch("os.fsync")


def finish_all(store: Store, cells: Iterable[Cell]) -> None:
    """Receipts, with all epochs' metrics, and (tiny) weights of cells that the store lacks."""
    present = store.cell_ids()
    with undisturbed():
        for cell in cells:
            if cell.cell_id not in present:
                finish(store, cell)


def checkpoint_all(store: Store, cells: Iterable[Cell], epoch: int) -> None:
    """What workers leave after an epoch."""
    with undisturbed():
        for cell in cells:
            begin(store, cell, epoch)


def mirror_all(tracker: Tracker, database: Path, cells: dict[str, Cell], sample: int) -> float:
    """Brings MLflow up to date: a sample cell by cell, as the tracker does it, the others as rows written at once.

    Returns the seconds per cell of the sample. Checks that both ways give the same rows, and that the tracker finds
    nothing left to do.
    """
    submission = tracker.start_submission(
        NAME, profile="digits", cells=dict.fromkeys(cells, (NAME,)), trained=[], summary={}
    )
    submission = tracker.end_submission(submission, "finished")
    with undisturbed():
        tracker.sync(submission.submission_id)
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
        raise SystemExit(f"the MLflow that was made up is not what the tracker would make: it lacks {len(left)}")
    return seconds


def _finished(store: Store, cell_id: str) -> tuple[Cell, Progress]:
    """A finished cell as its receipt has it, which is how the tracker sees it."""
    progress = store.progress(cell_id)
    assert progress is not None and progress.receipt is not None
    return progress.receipt.cell, progress


def _rows(cell: Cell, progress: Progress, run_id: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The rows of a finished cell's run, by table, but for the run's own."""
    tags = content.tags(cell, progress) | {
        content.GRIDS: NAME,
        content.PROFILE: "digits",
        content.LOGGED: str(progress.epochs[-1].epoch),
        "mlflow.runName": content.title(cell),
    }
    yield from (("tags", (key, value, run_id)) for key, value in tags.items())
    yield from (("params", (key, value, run_id)) for key, value in content.params(cell).items())
    for epoch in progress.epochs:
        milliseconds = int(epoch.time * 1000)
        for name, value in epoch.metrics.items():
            yield "metrics", (name, value, milliseconds, run_id, epoch.epoch, False)
            if epoch is progress.epochs[-1]:
                yield "latest_metrics", (name, value, milliseconds, epoch.epoch, False, run_id)


def _check(connection: sqlite3.Connection, store: Store, synced: list[str]) -> None:
    """Stops unless the rows that we would write for cells are those that the tracker made of them."""
    for cell_id in synced[:: max(1, len(synced) // 5)]:
        mirror = store.mirror(cell_id)
        assert mirror is not None
        wanted = sorted(_rows(*_finished(store, cell_id), mirror.run_id), key=repr)
        found = [
            (table, tuple(bool(v) if name == "is_nan" else v for name, v in zip(_columns(cursor), row, strict=True)))
            for table in ("tags", "params", "metrics", "latest_metrics")
            for cursor in [connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (mirror.run_id,))]
            for row in cursor
        ]
        if sorted(found, key=repr) != wanted:
            raise SystemExit(f"MLflow's rows of cell {cell_id} are not the ones that this benchmark would write")


def _columns(cursor: sqlite3.Cursor) -> list[str]:
    return [column[0] for column in cursor.description]


def _write(connection: sqlite3.Connection, tracker: Tracker, cell_ids: list[str]) -> None:
    """The rows of cells that MLflow lacks, in one transaction, and what the store notes of them."""
    cursor = connection.execute("SELECT * FROM runs WHERE name != ? LIMIT 1", (NAME,))
    template = dict(zip(_columns(cursor), cursor.fetchone(), strict=True))
    rows: dict[str, list[tuple[Any, ...]]] = {"runs": []}
    for cell_id in cell_ids:
        cell, progress = _finished(tracker.store, cell_id)
        run_id = uuid.uuid4().hex
        own = {
            "run_uuid": run_id,
            "name": content.title(cell),
            "artifact_uri": template["artifact_uri"].replace(template["run_uuid"], run_id),
        }
        rows["runs"].append(tuple((template | own).values()))
        for table, row in _rows(cell, progress, run_id):
            rows.setdefault(table, []).append(row)
        assert progress.receipt is not None
        folder = Path(own["artifact_uri"].removeprefix("file://"))
        folder.mkdir(parents=True)
        (folder / content.RECEIPT_FILE).write_bytes(content.artifacts(progress.receipt)[content.RECEIPT_FILE])
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
