"""Memory and open files of a driver under load: 5,000 tiny cells in 200 queued cohorts, and 8 drivers at once.

.venv/bin/python benchmarks/load.py [--cohorts 200] [--size 25] [--drivers 8]

These are real runs: `pld-grid run` processes, Ray, MLflow on sqlite, one epoch of digits at 8 pixels per cell. Once a
second the benchmark samples the driver's resident memory and open files, and the memory of all its child processes.
The concurrent drivers share one Ray, one store and one MLflow, and their grids overlap: each cell must be trained once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from _measure import Goal, last_line
from rich.console import Console
from rich.table import Table

from pld_grid.store import Store, claims

PROFILE = """\
description: digits at 8 pixels, for load
dataset: {{name: digits, image_size: 8}}
recipe:
  batch_size: 180
  micro_batch_size: 180
  warmup_epochs: 0
  augmentation: {{crop: none}}
  mean: [0.3]
  std: [0.38]
optimizer: adamw
optimizers:
  adamw: {{learning_rate: 2e-3}}
teachers: {{source: trained, epochs: 1}}
models:
  big: {{architecture: test_vit, options: {{img_size: 8, patch_size: 4, depth: 1}}}}
  tiny: {{architecture: test_vit, options: {{img_size: 8, patch_size: 8, depth: 1, embed_dim: 16, num_heads: 1}}}}
machine: {{cohort_size: {size}}}
"""
GRID = """\
cells:
  teacher: big
  student: tiny
  epochs: 1
  loss: kd
  hyperparameters: {{kd: {{alpha: 0.5, tau: [{temperatures}]}}}}
"""
MIB = 2**20
# Limits of growth during the second half of the cells.
KIB_PER_CELL, FILES = 40.0, 64
# Limits of a driver in all; torch, Ray and MLflow use most of it before the first cell.
DRIVER_MIB, DRIVER_FILES = 1500.0, 128


@dataclass
class Sample:
    """Seconds since the start, finished cells, MiB and open files of the driver, MiB with its child processes."""

    seconds: float
    finished: int
    memory: float
    files: int
    all_memory: float


@dataclass
class Driver:
    """A driver process and the samples of its memory and files."""

    process: "subprocess.Popen[bytes]"
    store: Path
    samples: list[Sample] = field(default_factory=list)

    def watch(self) -> int:
        """Take samples until the driver exits; return its exit code."""
        started, driver = time.monotonic(), psutil.Process(self.process.pid)
        while True:
            try:
                self.process.wait(timeout=1)
                return self.process.returncode
            except subprocess.TimeoutExpired:
                with suppress(psutil.Error):
                    finished = sum(1 for _ in self.store.glob("*/receipt.json"))
                    processes = [p for p in (driver, *driver.children(recursive=True)) if p.is_running()]
                    memory = sum(p.memory_info().rss for p in processes)
                    self.samples.append(
                        Sample(
                            time.monotonic() - started,
                            finished,
                            driver.memory_info().rss / MIB,
                            driver.num_fds(),
                            memory / MIB,
                        )
                    )

    def maximum(self, figure: str, *, until: int | None = None, since: int = 0) -> float:
        """Return the maximum of a figure over the samples with `since` to `until` finished cells."""
        values = [getattr(each, figure) for each in self.samples if since <= each.finished <= (until or each.finished)]
        return float(max(values, default=0))


def start(folder: Path, cells: range, size: int, *arguments: str) -> Driver:
    """Start a driver for some cells in its own folder, with the shared store and MLflow database."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "load.yaml").write_text(GRID.format(temperatures=", ".join(f"{1 + n / 100:g}" for n in cells)))
    (folder / "tiny.yaml").write_text(PROFILE.format(size=size))
    shared = folder.parent / "shared"
    command = [sys.executable, "-m", "pld_grid", "run", "load.yaml", "--profile", "tiny.yaml", "--max-cells", "10000"]
    command += ["--store", str(shared / "store"), "--tracking-uri", f"sqlite:///{shared / 'mlflow.db'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *arguments], cwd=folder, stdout=log, stderr=log)
    return Driver(process, shared / "store")


def trained_once(store: Path, cells: int) -> bool:
    """Return whether each of `cells` cells was claimed once and then finished."""
    opened = Store(store)
    logs = [[entry.kind for entry in claims.read_log(opened, cell_id)] for cell_id in sorted(opened.cell_ids())]
    return len(logs) == cells and all(log == ["claimed", "finished"] for log in logs)


def alone(folder: Path, cohorts: int, size: int, console: Console) -> tuple[dict[str, object], list[Goal]]:
    """Run one driver with many cohorts."""
    cells = cohorts * size
    driver = start(folder / "alone", range(cells), size)
    code = driver.watch()
    seconds = driver.samples[-1].seconds
    half = cells // 2
    table = Table("cells finished", "seconds", "driver MiB", "open files", "all processes MiB")
    for part in range(0, 11):
        sample = next((each for each in driver.samples if each.finished >= part * cells // 10), driver.samples[-1])
        table.add_row(
            *(
                f"{value:.0f}"
                for value in (sample.finished, sample.seconds, sample.memory, sample.files, sample.all_memory)
            )
        )
    console.print(table)
    growth = 1024 * (driver.maximum("memory", since=half) - driver.maximum("memory", until=half)) / max(1, cells - half)
    more = driver.maximum("files", since=half) - driver.maximum("files", until=half)
    figures: dict[str, object] = {
        "cells": cells,
        "cohorts": cohorts,
        "seconds": round(seconds),
        "exit": code,
        "cells_per_second": round(cells / seconds, 2),
        "driver_mib": round(driver.maximum("memory")),
        "driver_files": driver.maximum("files"),
        "all_mib": round(driver.maximum("all_memory")),
        "kib_per_cell": round(growth, 1),
        "more_files": more,
        "once": trained_once(driver.store, cells + 1),
    }
    return figures, [
        Goal("growth of the driver's memory in the second half, KiB per cell", growth, KIB_PER_CELL),
        Goal("growth of the driver's open files in the second half", more, FILES),
        Goal("driver's memory, MiB", driver.maximum("memory"), DRIVER_MIB),
        Goal("driver's open files", driver.maximum("files"), DRIVER_FILES),
        Goal("cells not trained exactly once or exit code (0: none)", float(code != 0 or not figures["once"]), 0.0),
    ]


def at_once(folder: Path, drivers: int, size: int, console: Console) -> tuple[dict[str, object], list[Goal]]:
    """Run several drivers whose grids overlap by half on one Ray."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    head = [
        *ray,
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address",
        "127.0.0.1",
        "--port",
        "26379",
        "--include-dashboard",
        "false",
        "--temp-dir",
        str(folder / "ray"),
    ]
    os.environ["RAY_AUTH_MODE"] = "disabled"
    node = subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        step = size
        running = [
            start(folder / f"driver-{n}", range(n * step, (n + 2) * step), size, "--address", "127.0.0.1:26379")
            for n in range(drivers)
        ]
        threads = [threading.Thread(target=each.watch) for each in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        children = psutil.Process(node.pid).children(recursive=True)
        node.terminate()
        node.wait()
        for each in psutil.wait_procs(children, timeout=30)[1]:
            each.kill()
    cells = (drivers + 1) * step
    codes = [each.process.returncode for each in running]
    once = trained_once(running[0].store, cells + 1)
    memory = max(each.maximum("memory") for each in running)
    files = max(each.maximum("files") for each in running)
    seconds = max(each.samples[-1].seconds for each in running)
    table = Table("drivers", "cells requested", "cells", "seconds", "MiB each", "open files each", "exit codes", "once")
    table.add_row(
        str(drivers),
        str(2 * step * drivers),
        str(cells),
        f"{seconds:.0f}",
        f"{memory:.0f}",
        f"{files:.0f}",
        str(codes),
        str(once),
    )
    console.print(table)
    figures: dict[str, object] = {
        "drivers": drivers,
        "cells": cells,
        "seconds": round(seconds),
        "driver_mib": round(memory),
        "driver_files": files,
        "exits": codes,
        "once": once,
    }
    return figures, [
        Goal("drivers at once: memory of each, MiB", memory, DRIVER_MIB),
        Goal("drivers at once: open files of each", files, DRIVER_FILES),
        Goal(
            "drivers at once: cells not trained exactly once or exit codes (0: none)",
            float(any(codes) or not once),
            0.0,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--size", type=int, default=25)
    parser.add_argument("--drivers", type=int, default=8)
    options = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="pldload-", ignore_cleanup_errors=True) as name:
        first, goals = alone(Path(name) / "one", options.cohorts, options.size, console)
        second, more = at_once(Path(name) / "many", options.drivers, options.size, console)
    last_line("load", [*goals, *more], alone=first, at_once=second)


if __name__ == "__main__":
    main()
