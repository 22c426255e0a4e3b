"""All ten tables under `digits`, as `make tables` runs them: wall-clock time, and the error of its forecast.

.venv/bin/python benchmarks/tables.py [--keep FOLDER]

Three commands in a fresh folder: `calibrate`, `plan --json`, `run`. Run once: it takes minutes. Where the time goes is
read from the receipts; what lies between the command and its students is imports, Ray and Tune.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import Goal, last_line

from pld_grid.service import loading
from pld_grid.store import Receipt, Store

GRIDS = sorted(str(path) for path in (Path(__file__).parent.parent / "grids").glob("table*.yaml"))
MINUTES = 8


def command(folder: Path, name: str, *flags: str) -> tuple[float, str]:
    """Seconds of a `pld-grid` command on all tables, and what it printed."""
    store, database = folder / "store", folder / "mlflow.db"
    arguments = [name, *GRIDS, "--profile", "digits", "--store", str(store), *flags]
    if name == "run":
        arguments += ["--tracking-uri", f"sqlite:///{database}", "--report", str(folder / "report")]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", "from pld_grid.cli import script; script()", *arguments], capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{name} failed: {done.stderr[-2000:]}")
    return seconds, done.stdout


def students(folder: Path) -> list[list[Receipt]]:
    """The receipts by wave: teachers first."""
    cells = {cell.cell_id: cell for grid in loading.load_grids(GRIDS, "digits") for cell in grid.cells()}
    receipts = [receipt for cell in cells.values() if (receipt := Store(folder / "store").receipt(cell)) is not None]
    assert len(receipts) == len(cells)
    teacher_ids = {cell.teacher.cell_id for cell in cells.values() if cell.teacher is not None}
    return [[r for r in receipts if (r.cell.cell_id in teacher_ids) is first] for first in (True, False)]


def measure(folder: Path) -> None:
    """Runs the three commands and prints what they took."""
    calibrating, _ = command(folder, "calibrate")
    _, text = command(folder, "plan", "--json")
    forecast = json.loads(text)["costs"]
    taken, _ = command(folder, "run")
    expected = forecast["as planned"]["seconds"]
    print(f"calibrate {calibrating:6.1f} s   (once per machine)")
    print(f"run       {taken:6.1f} s   forecast {expected:.1f} s")
    taken_by_wave = {}
    for name, wave in zip(("teachers", "students"), students(folder), strict=True):
        begun = min(receipt.provenance.started for receipt in wave)
        ended = max(receipt.provenance.ended for receipt in wave)
        print(f"  {name:8} {ended - begun:6.1f} s   {len(wave)} cells, first to last")
        taken_by_wave[name] = ended - begun
    print(f"  the rest {taken - sum(taken_by_wave.values()):6.1f} s   imports, Ray's start and end, Tune, the report")
    for name, cost in forecast.items():
        print(f"forecast {name:30} {cost['seconds']:8.0f} s {cost['cpu_hours']:6.2f} CPU-hours")
    last_line(
        "tables",
        [
            Goal("all ten tables, minutes", taken / 60, MINUTES),
            Goal("forecast, off by", abs(expected / taken - 1), 0.25),
        ],
        cpus=len(os.sched_getaffinity(0)),
        seconds={"calibrate": calibrating, "run": taken, "forecast": expected, **taken_by_wave},
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="leave store, MLflow and report in this folder")
    keep = parser.parse_args().keep
    if keep is not None:
        keep.mkdir(parents=True)
        measure(keep)
        return
    with tempfile.TemporaryDirectory(prefix="pld_grid-bench-", ignore_cleanup_errors=True) as folder:
        measure(Path(folder))


if __name__ == "__main__":
    main()
