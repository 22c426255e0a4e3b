"""The service itself at 10,000 cells: expanding them, finding them finished, reporting them, hearing from them.

.venv/bin/python benchmarks/scale.py [--cells 10000]

Everything goes through the real code: commands are processes of their own (interpreter start and imports included),
the store's receipts are written by the store. Of MLflow's runs only a sample is logged one by one, which would take
minutes; the others are the same rows written at once (checked, see `mirror_all`), with the receipt as their artifact.
"""

import argparse
import contextlib
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
from _scale_parts import (
    NAME,
    POINTS,
    Spent,
    checkpoint_all,
    finish_all,
    grid_text,
    mirror_all,
    pld_grid,
)
from rich.console import Console

from pld_grid import api
from pld_grid.events import Event
from pld_grid.progress import Progress
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.track import Mirrorer, Tracker

ROUNDS = 5
SAMPLE = 100  # cells that are logged in MLflow one by one
RUNNING = 1000
REPORTING = 100  # of the running cells, in each round of events
DISPLAY_SECONDS = 5.0
NOTHING_TO_DO = "Nothing to train"


class Scale:
    """A folder with grids (all cells, a fifth of them, one seed's), one store and one MLflow."""

    def __init__(self, folder: Path, cells: int) -> None:
        self.folder, self.sizes = folder, {"start": POINTS, "few": cells // 5, "many": cells}
        for name, size in self.sizes.items():
            (folder / name).mkdir()
            self.grid_path(name).write_text(grid_text(size))
        self.store = Store(folder / "store")
        self.database = folder / "mlflow.db"

    def grid_path(self, name: str) -> Path:
        """A grid's file; both grids have one name, so that MLflow's tags are the same."""
        return self.folder / name / f"{NAME}.yaml"

    def load(self, name: str) -> api.Grid:
        """Expands a grid in this process."""
        return api.load_grids([self.grid_path(name)], max_cells=self.sizes["many"])[0]

    def fill(self, name: str) -> float:
        """Finishes a grid's cells and brings MLflow up to date; seconds per cell logged one by one."""
        cells = {cell.cell_id: cell for cell in self.load(name).cells()}
        finish_all(self.store, cells.values())
        return mirror_all(Tracker(self.store, f"sqlite:///{self.database}"), self.database, cells, SAMPLE)

    def command(self, command: str, name: str, *arguments: str, store: str = "", database: str = "") -> Spent:
        """Runs a command on a grid, with this store and MLflow or others."""
        given = [command, str(self.grid_path(name)), "--max-cells", str(self.sizes["many"])]
        given += ["--store", str(self.folder / store) if store else self.store.uri]
        if command != "plan":
            given += ["--tracking-uri", f"sqlite:///{self.folder / database if database else self.database}"]
        return pld_grid(self.folder, *given, *arguments, until=NOTHING_TO_DO)

    def report(self, name: str, source: str) -> Spent:
        """Reports into an empty folder."""
        out = self.folder / f"report-{source}-{name}"
        shutil.rmtree(out, ignore_errors=True)
        return self.command("report", name, "--from", source, "--out", str(out))

    def check_reports(self) -> None:
        """Both sources must give the same files."""
        folders = [self.folder / f"report-{source}-many" for source in ("store", "mlflow")]
        files = [
            {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} for out in folders
        ]
        if files[0] != files[1]:
            raise SystemExit("the reports from the store and from MLflow differ")


def expansion(scale: Scale) -> tuple[dict[str, float], float]:
    """Seconds of `load_grids` in a process that has torch loaded, by grid; bytes that a cell of a grid takes."""
    loads = {name: lambda name=name: scale.load(name) for name in ("few", "many")}
    times = alternate(loads, rounds=ROUNDS, seconds=0)
    tracemalloc.start()
    grid = scale.load("many")
    held = tracemalloc.get_traced_memory()[0] / len(grid.entries)
    tracemalloc.stop()
    return times, held


def median_of(spent: Sequence[Spent]) -> Spent:
    """The median of every figure."""
    figures = [statistics.median(getattr(each, name) for each in spent) for name in ("said", "seconds", "cpu", "peak")]
    return Spent(*figures, lines=spent[-1].lines)


def commands(scale: Scale) -> dict[str, Spent]:
    """All commands in turn on the whole grid, where everything is finished and in MLflow."""
    calls = {
        f"plan --json, {POINTS} cells": lambda: scale.command("plan", "start", "--json", store="nothing"),
        "plan --json, empty store": lambda: scale.command("plan", "many", "--json", store="nothing"),
        "run, MLflow up to date": lambda: scale.command("run", "many"),
        "report --from store": lambda: scale.report("many", "store"),
        "report --from mlflow": lambda: scale.report("many", "mlflow"),
    }
    found: dict[str, list[Spent]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            found[name].append(call())
    scale.check_reports()
    return {name: median_of(spent) for name, spent in found.items()}


def commands_on_few(scale: Scale) -> dict[str, Spent]:
    """The same commands once, on a fifth of the cells: for how memory grows."""
    scale.command("plan", "start")  # Python compiles what is new to it
    return {
        "plan --json, empty store": scale.command("plan", "few", "--json", store="nothing"),
        "run, MLflow up to date": scale.command("run", "few"),
        "report --from store": scale.report("few", "store"),
        "report --from mlflow": scale.report("few", "mlflow"),
    }


def event_cpu(cells: Sequence[Cell], folder: Path) -> tuple[float, float]:
    """CPU seconds of this process per epoch that a running cell reports: median, and the first time of a cell.

    Included: the display's bookkeeping, the mirror's thread, MLflow's client with its sqlite, the store's reads.
    """
    store = Store(folder / "events")
    tracker = Tracker(store, f"sqlite:///{folder / 'events.db'}")
    ids = [cell.cell_id for cell in cells]
    tracker.start_submission(NAME, profile="digits", cells=dict.fromkeys(ids, (NAME,)), trained=ids, summary={})
    progress = Progress(cells, 0, Console(quiet=True))
    mirror = Mirrorer(tracker, replay=False)
    mirror.start()
    took = []
    for epoch in range(1, ROUNDS + 2):
        checkpoint_all(store, cells, epoch)
        started = time.process_time()
        for cell in cells:
            progress.hear(Event("epoch", cell.cell_id, epoch, {"top1": 50.0 + epoch}))
            mirror.mark(cell.cell_id)
        while mirror.pending():
            time.sleep(0.05)
        took.append((time.process_time() - started) / len(cells))
    if mirror.close():
        raise SystemExit("the mirror did not keep up")
    return statistics.median(took[1:]), took[0]


def display_cpu(cells: Sequence[Cell]) -> float:
    """CPU seconds per second of the display in a terminal while cells run and none reports."""
    terminal, behind = os.openpty()

    def drain() -> None:
        # Reading fails once the other end is closed.
        with contextlib.suppress(OSError):
            while os.read(terminal, 65536):
                pass

    threading.Thread(target=drain, daemon=True).start()
    console = Console(file=os.fdopen(behind, "w", encoding="utf-8"), force_terminal=True, width=120)
    with Progress(cells, 0, console) as progress:
        for cell in cells:
            progress.hear(Event("started", cell.cell_id))
        started, cpu = time.perf_counter(), time.process_time()
        time.sleep(DISPLAY_SECONDS)
        return (time.process_time() - cpu) / (time.perf_counter() - started)


def main() -> None:
    """Prints a table, and the goals as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", type=int, default=10_000, help=f"a multiple of {5 * POINTS}")
    cells = parser.parse_args().cells
    if cells < RUNNING or cells % (5 * POINTS):
        parser.error(f"--cells must be a multiple of {5 * POINTS}, and at least {RUNNING}")
    with tempfile.TemporaryDirectory(prefix="pld_grid-scale-") as folder:
        measure(Scale(Path(folder), cells))


def measure(scale: Scale) -> None:
    few, many = scale.sizes["few"], scale.sizes["many"]
    expanding, held = expansion(scale)
    print(f"{'expand in process':28} {few:>6} cells {expanding['few']:7.2f} s")
    print(f"{'':28} {many:>6} cells {expanding['many']:7.2f} s, {held:.0f} bytes held per cell")

    scale.fill("few")
    small = commands_on_few(scale)
    logging_seconds = scale.fill("many")
    print(f"{'log a finished cell':28} {'':>12} {1000 * logging_seconds:7.1f} ms, each alone, sqlite")
    big = commands(scale)
    big["run, MLflow knows nothing"] = first = scale.command("run", "many", database="fresh.db")
    heads = ("decided", "whole", "CPU", "peak MiB", f"at {few}")
    print(f"\n{'command':28} {' '.join(f'{head:>9}' for head in heads)} {'bytes/cell':>11}")
    growth = {}
    for name, spent in big.items():
        said = "" if spent.said != spent.said else f"{spent.said:.2f} s"
        start = f"{name:28} {said:>9} {spent.seconds:7.2f} s {spent.cpu:7.2f} s {spent.peak:9.0f}"
        if name not in small:
            print(start)
            continue
        growth[name] = (spent.peak - small[name].peak) * 2**20 / (many - few)
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
            Goal(f"run decides that {many} cells are finished, seconds", big["run, MLflow up to date"].said, 10),
            Goal("the same when MLflow knows none of them, seconds", first.said, 10),
            Goal(f"report from {many} MLflow runs, seconds", big["report --from mlflow"].seconds, 20),
        ],
        cells=many,
        seconds={name: round(spent.seconds, 2) for name, spent in big.items()},
        peak_mib={name: round(spent.peak) for name, spent in big.items()},
        growth_bytes_per_cell={name: round(figure) for name, figure in growth.items()},
        grid_bytes_per_cell=round(held),
        log_ms_per_cell=round(1000 * logging_seconds, 1),
        event_cpu_ms=round(1000 * event, 2),
        display_core_percent=round(100 * display, 2),
        idle_1000_core_percent=round(100 * busy, 2),
    )


if __name__ == "__main__":
    main()
