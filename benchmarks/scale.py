"""The service at 10,000 cells: expand a grid, detect finished cells, report, process events.

.venv/bin/python benchmarks/scale.py [--cells 10000]

Commands run as separate processes (interpreter start and imports included), and the store writes its receipts itself.
Logging every cell in MLflow would take minutes: a sample is logged by the tracker, the others are written as the same
rows in one transaction (`mirror_all` checks that they are equal), with the receipt as their artifact.
"""

import argparse
import contextlib
import math
import os
import shutil
import statistics
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from _measure import Goal, alternate, last_line
from _scale_parts import NAME, POINTS, Usage, checkpoint_all, finish_all, grid_text, mirror_all, pld_grid
from rich.console import Console

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import CellStarted, EpochCompleted
from pld_grid.experiment.grid import Grid
from pld_grid.service import loading
from pld_grid.service.progress import ProgressDisplay
from pld_grid.store import Store
from pld_grid.track.background_sync import BackgroundSync
from pld_grid.track.parent_runs import ParentRun
from pld_grid.track.tracker import Tracker

ROUNDS = 5
SAMPLE = 100  # cells that are logged in MLflow one by one
RUNNING = 1000
REPORTING = 100  # of the running cells, in each round of events
DISPLAY_SECONDS = 5.0
NOTHING_TO_DO = "Nothing to train"


class Scale:
    """A folder with three grids (all cells, a fifth of them, one seed), one store and one MLflow database."""

    def __init__(self, folder: Path, cells: int) -> None:
        self.folder, self.sizes = folder, {"start": POINTS, "few": cells // 5, "many": cells}
        for name, size in self.sizes.items():
            (folder / name).mkdir()
            self.grid_path(name).write_text(grid_text(size))
        self.store = Store(folder / "store")
        self.database = folder / "mlflow.db"

    def grid_path(self, name: str) -> Path:
        """Return a grid's file; the grids share one name, so that MLflow's tags are equal."""
        return self.folder / name / f"{NAME}.yaml"

    def load(self, name: str) -> Grid:
        """Expand a grid in this process."""
        return loading.load_grids([self.grid_path(name)], max_cells=self.sizes["many"])[0]

    def fill(self, name: str) -> float:
        """Finish a grid's cells and log them; return the seconds per cell of the logged sample."""
        cells = {cell.cell_id: cell for cell in self.load(name).cells()}
        finish_all(self.store, cells.values())
        return mirror_all(Tracker(self.store, f"sqlite:///{self.database}"), self.database, cells, SAMPLE)

    def command(self, command: str, name: str, *arguments: str, store: str = "", database: str = "") -> Usage:
        """Run a command on a grid, with this or another store and MLflow database."""
        options = [command, str(self.grid_path(name)), "--max-cells", str(self.sizes["many"])]
        options += ["--store", str(self.folder / store) if store else self.store.uri]
        if command != "plan":
            options += ["--tracking-uri", f"sqlite:///{self.folder / database if database else self.database}"]
        return pld_grid(self.folder, *options, *arguments, until=NOTHING_TO_DO)

    def report(self, name: str, source: str) -> Usage:
        """Write the report into an empty folder."""
        out = self.folder / f"report-{source}-{name}"
        shutil.rmtree(out, ignore_errors=True)
        return self.command("report", name, "--from", source, "--out", str(out))

    def check_reports(self) -> None:
        """Stop unless both sources give the same files."""
        folders = [self.folder / f"report-{source}-many" for source in ("store", "mlflow")]
        files = [
            {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} for out in folders
        ]
        if files[0] != files[1]:
            raise SystemExit("the reports from the store and from MLflow differ")


def expansion(scale: Scale) -> tuple[dict[str, float], float]:
    """Return the seconds of `load_grids` by grid, with torch loaded before, and the bytes per cell of a grid."""
    loads = {name: lambda name=name: scale.load(name) for name in ("few", "many")}
    times = alternate(loads, rounds=ROUNDS, seconds=0)
    tracemalloc.start()
    grid = scale.load("many")
    bytes_per_cell = tracemalloc.get_traced_memory()[0] / len(grid.entries)
    tracemalloc.stop()
    return times, bytes_per_cell


def take_medians(usages: Sequence[Usage]) -> Usage:
    """Return the median of every figure."""
    figures = [statistics.median(getattr(u, name) for u in usages) for name in ("decided", "seconds", "cpu", "peak")]
    return Usage(*figures, lines=usages[-1].lines)


def commands(scale: Scale) -> dict[str, Usage]:
    """Run all commands in turn on the whole grid, whose cells are all finished and logged."""
    calls = {
        f"plan --json, {POINTS} cells": lambda: scale.command("plan", "start", "--json", store="nothing"),
        "plan --json, empty store": lambda: scale.command("plan", "many", "--json", store="nothing"),
        "run, MLflow up to date": lambda: scale.command("run", "many"),
        "report --from store": lambda: scale.report("many", "store"),
        "report --from mlflow": lambda: scale.report("many", "mlflow"),
    }
    usages: dict[str, list[Usage]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            usages[name].append(call())
    scale.check_reports()
    return {name: take_medians(runs) for name, runs in usages.items()}


def commands_on_few(scale: Scale) -> dict[str, Usage]:
    """Run the same commands once on a fifth of the cells, to see how memory grows."""
    scale.command("plan", "start")  # Python writes its bytecode files
    return {
        "plan --json, empty store": scale.command("plan", "few", "--json", store="nothing"),
        "run, MLflow up to date": scale.command("run", "few"),
        "report --from store": scale.report("few", "store"),
        "report --from mlflow": scale.report("few", "mlflow"),
    }


def event_cpu(cells: Sequence[Cell], folder: Path) -> tuple[float, float]:
    """Return the CPU seconds per reported epoch of a cell: the median, and those of a cell's first report.

    They include the display's bookkeeping, the mirror's thread, MLflow's client with sqlite and the store's reads.
    """
    store = Store(folder / "events")
    tracker = Tracker(store, f"sqlite:///{folder / 'events.db'}")
    ids = [cell.cell_id for cell in cells]
    cells_of_grid = dict.fromkeys(ids, (NAME,))
    tracker.parent_runs.start(ParentRun(name=NAME, profile="digits", cells=cells_of_grid, trained=tuple(ids)))
    progress = ProgressDisplay(cells, 0, Console(quiet=True))
    mirror = BackgroundSync(tracker)
    mirror.start()
    seconds = []
    for epoch in range(1, ROUNDS + 2):
        checkpoint_all(store, cells, epoch)
        started = time.process_time()
        for cell in cells:
            progress.on_event(EpochCompleted(cell.cell_id, epoch, {"top1": 50.0 + epoch}))
            mirror.request_sync(cell.cell_id)
        while mirror.pending():
            time.sleep(0.05)
        seconds.append((time.process_time() - started) / len(cells))
    if mirror.close():
        raise SystemExit("the mirror did not keep up")
    return statistics.median(seconds[1:]), seconds[0]


def display_cpu(cells: Sequence[Cell]) -> float:
    """Return the CPU seconds per second of the display in a terminal while cells run and none reports."""
    terminal, slave = os.openpty()

    def drain() -> None:
        # Reading fails once the other end is closed.
        with contextlib.suppress(OSError):
            while os.read(terminal, 65536):
                pass

    threading.Thread(target=drain, daemon=True).start()
    console = Console(file=os.fdopen(slave, "w", encoding="utf-8"), force_terminal=True, width=120)
    with ProgressDisplay(cells, 0, console) as progress:
        for cell in cells:
            progress.on_event(CellStarted(cell.cell_id))
        started, cpu = time.perf_counter(), time.process_time()
        time.sleep(DISPLAY_SECONDS)
        return (time.process_time() - cpu) / (time.perf_counter() - started)


def main() -> None:
    """Print a table, and the goals as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", type=int, default=10_000, help=f"a multiple of {5 * POINTS}")
    cells = parser.parse_args().cells
    if cells < RUNNING or cells % (5 * POINTS):
        parser.error(f"--cells must be a multiple of {5 * POINTS}, and at least {RUNNING}")
    with tempfile.TemporaryDirectory(prefix="pld_grid-scale-") as folder:
        measure(Scale(Path(folder), cells))


def measure(scale: Scale) -> None:
    """Measure everything and print it."""
    few, many = scale.sizes["few"], scale.sizes["many"]
    expanding, bytes_per_cell = expansion(scale)
    print(f"{'expand in process':28} {few:>6} cells {expanding['few']:7.2f} s")
    print(f"{'':28} {many:>6} cells {expanding['many']:7.2f} s, {bytes_per_cell:.0f} bytes per cell")

    scale.fill("few")
    small = commands_on_few(scale)
    logging_seconds = scale.fill("many")
    print(f"{'log a finished cell':28} {'':>12} {1000 * logging_seconds:7.1f} ms, each alone, sqlite")
    big = commands(scale)
    big["run, MLflow empty"] = first = scale.command("run", "many", database="fresh.db")
    heads = ("decided", "whole", "CPU", "peak MiB", f"at {few}")
    print(f"\n{'command':28} {' '.join(f'{head:>9}' for head in heads)} {'bytes/cell':>11}")
    growth = {}
    for name, usage in big.items():
        decided = "" if math.isnan(usage.decided) else f"{usage.decided:.2f} s"
        start = f"{name:28} {decided:>9} {usage.seconds:7.2f} s {usage.cpu:7.2f} s {usage.peak:9.0f}"
        if name not in small:
            print(start)
            continue
        growth[name] = (usage.peak - small[name].peak) * 2**20 / (many - few)
        print(f"{start} {small[name].peak:9.0f} {growth[name]:11.0f}")
    print("".join(f"  {line}\n" for line in first.lines.splitlines() if "MLflow" in line), end="")

    running = [entry.cell for entry in scale.load("many").entries][:RUNNING]
    event, first_event = event_cpu(running[:REPORTING], scale.folder)
    display = display_cpu(running)
    busy = event * RUNNING / 60 + display
    print(
        f"\n{RUNNING} cells that run and report an epoch a minute: {100 * busy:.1f} % of a core "
        f"({3600 * busy:.0f} CPU-seconds an hour)\n"
        f"  {1000 * event:.2f} ms per epoch (the first of a cell, which makes its run in MLflow: "
        f"{1000 * first_event:.1f} ms); display in a terminal {100 * display:.2f} % of a core\n"
        "  included: display, mirror, MLflow's client and its sqlite, the store's reads; not: Ray's own threads"
    )
    last_line(
        "scale",
        [
            Goal(f"expanding {many} cells, seconds", expanding["many"], 2),
            Goal(f"run decides that {many} cells are finished, seconds", big["run, MLflow up to date"].decided, 10),
            Goal("the same with an empty MLflow, seconds", first.decided, 10),
            Goal(f"report from {many} MLflow runs, seconds", big["report --from mlflow"].seconds, 20),
        ],
        cells=many,
        seconds={name: round(usage.seconds, 2) for name, usage in big.items()},
        peak_mib={name: round(usage.peak) for name, usage in big.items()},
        growth_bytes_per_cell={name: round(figure) for name, figure in growth.items()},
        grid_bytes_per_cell=round(bytes_per_cell),
        log_ms_per_cell=round(1000 * logging_seconds, 1),
        event_cpu_ms=round(1000 * event, 2),
        display_core_percent=round(100 * display, 2),
        idle_1000_core_percent=round(100 * busy, 2),
    )


if __name__ == "__main__":
    main()
