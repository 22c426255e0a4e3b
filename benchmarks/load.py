"""What a driver holds under load: 5,000 tiny cells in 200 queued cohorts, and 8 drivers at once.

.venv/bin/python benchmarks/load.py [--cohorts 200] [--size 25] [--drivers 8]

Real runs: `pld-grid run` processes, real Ray, MLflow on sqlite, one epoch of digits at 8 pixels a cell. Looked at from
outside, once a second: the driver's own resident memory and open files, and those of all processes that it started.
The drivers at once share one Ray, one store and one MLflow, and want overlapping grids: each cell may be trained once.
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
# What may come on top in the second half of the cells, of which the driver keeps the names and little else.
KIB_PER_CELL, FILES = 40.0, 64
# What a driver may hold at all, most of which torch, Ray and MLflow have before there is any cell.
DRIVER_MIB, DRIVER_FILES = 1500.0, 128


@dataclass
class Seen:
    """One look: seconds since the start, finished cells, MiB and open files of the driver, MiB of its family."""

    at: float
    finished: int
    memory: float
    files: int
    family: float


@dataclass
class Watched:
    """A driver, and what was seen of it."""

    process: "subprocess.Popen[bytes]"
    store: Path
    looks: list[Seen] = field(default_factory=list)

    def watch(self) -> int:
        """Until it ends; its exit code."""
        started, driver = time.monotonic(), psutil.Process(self.process.pid)
        while True:
            try:
                self.process.wait(timeout=1)
                return self.process.returncode
            except subprocess.TimeoutExpired:
                with suppress(psutil.Error):
                    finished = sum(1 for _ in self.store.glob("*/receipt.json"))
                    family = [p for p in (driver, *driver.children(recursive=True)) if p.is_running()]
                    memory = sum(p.memory_info().rss for p in family)
                    self.looks.append(
                        Seen(
                            time.monotonic() - started, finished, driver.memory_info().rss / MIB, driver.num_fds(),
                            memory / MIB,
                        )
                    )  # fmt: skip

    def most(self, figure: str, *, until: int | None = None, since: int = 0) -> float:
        """The largest of a figure while so many cells were finished."""
        found = [getattr(each, figure) for each in self.looks if since <= each.finished <= (until or each.finished)]
        return float(max(found, default=0))


def start(folder: Path, cells: range, size: int, *arguments: str) -> Watched:
    """Starts a driver for some cells in a folder of its own, with the store and MLflow of all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "load.yaml").write_text(GRID.format(temperatures=", ".join(f"{1 + n / 100:g}" for n in cells)))
    (folder / "tiny.yaml").write_text(PROFILE.format(size=size))
    shared = folder.parent / "shared"
    command = [sys.executable, "-m", "pld_grid", "run", "load.yaml", "--profile", "tiny.yaml", "--max-cells", "10000"]
    command += ["--store", str(shared / "store"), "--tracking-uri", f"sqlite:///{shared / 'mlflow.db'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *arguments], cwd=folder, stdout=log, stderr=log)
    return Watched(process, shared / "store")


def trained_once(store: Path, cells: int) -> bool:
    """Whether every cell was claimed by one process, which finished it."""
    found = Store(store)
    logs = [[entry.kind for entry in claims.entries(found, cell_id)] for cell_id in sorted(found.cell_ids())]
    return len(logs) == cells and all(log == ["claimed", "finished"] for log in logs)


def alone(folder: Path, cohorts: int, size: int, console: Console) -> tuple[dict[str, object], list[Goal]]:
    """One driver with many cohorts."""
    cells = cohorts * size
    driver = start(folder / "alone", range(cells), size)
    code = driver.watch()
    seconds = driver.looks[-1].at
    half = cells // 2
    table = Table("cells finished", "seconds", "driver MiB", "open files", "all processes MiB")
    for part in range(0, 11):
        look = next((each for each in driver.looks if each.finished >= part * cells // 10), driver.looks[-1])
        table.add_row(*(f"{value:.0f}" for value in (look.finished, look.at, look.memory, look.files, look.family)))
    console.print(table)
    grown = 1024 * (driver.most("memory", since=half) - driver.most("memory", until=half)) / max(1, cells - half)
    more = driver.most("files", since=half) - driver.most("files", until=half)
    figures: dict[str, object] = {
        "cells": cells, "cohorts": cohorts, "seconds": round(seconds), "exit": code,
        "cells_per_second": round(cells / seconds, 2), "driver_mib": round(driver.most("memory")),
        "driver_files": driver.most("files"), "all_mib": round(driver.most("family")),
        "kib_per_cell": round(grown, 1), "more_files": more, "once": trained_once(driver.store, cells + 1),
    }  # fmt: skip
    return figures, [
        Goal("driver's memory, KiB more a cell in the second half", grown, KIB_PER_CELL),
        Goal("driver's open files, more in the second half", more, FILES),
        Goal("driver's memory, MiB", driver.most("memory"), DRIVER_MIB),
        Goal("driver's open files", driver.most("files"), DRIVER_FILES),
        Goal("cells not trained exactly once or exit code (0: none)", float(code != 0 or not figures["once"]), 0.0),
    ]


def at_once(folder: Path, drivers: int, size: int, console: Console) -> tuple[dict[str, object], list[Goal]]:
    """Several drivers whose grids overlap by half, on one Ray."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    head = [*ray, "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address", "127.0.0.1",
            "--port", "26379", "--include-dashboard", "false", "--temp-dir", str(folder / "ray")]  # fmt: skip
    os.environ["RAY_AUTH_MODE"] = "disabled"
    node = subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        step = size
        watched = [
            start(folder / f"driver-{n}", range(n * step, (n + 2) * step), size, "--address", "127.0.0.1:26379")
            for n in range(drivers)
        ]
        threads = [threading.Thread(target=each.watch) for each in watched]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        family = psutil.Process(node.pid).children(recursive=True)
        node.terminate()
        node.wait()
        for each in psutil.wait_procs(family, timeout=30)[1]:
            each.kill()
    cells = (drivers + 1) * step
    codes = [each.process.returncode for each in watched]
    once = trained_once(watched[0].store, cells + 1)
    memory = max(each.most("memory") for each in watched)
    files = max(each.most("files") for each in watched)
    seconds = max(each.looks[-1].at for each in watched)
    table = Table("drivers", "cells wanted", "cells", "seconds", "MiB each", "open files each", "exit codes", "once")
    table.add_row(
        str(drivers), str(2 * step * drivers), str(cells), f"{seconds:.0f}", f"{memory:.0f}", f"{files:.0f}",
        str(codes), str(once),
    )  # fmt: skip
    console.print(table)
    figures: dict[str, object] = {
        "drivers": drivers, "cells": cells, "seconds": round(seconds), "driver_mib": round(memory),
        "driver_files": files, "exits": codes, "once": once,
    }  # fmt: skip
    return figures, [
        Goal("drivers at once: memory of each, MiB", memory, DRIVER_MIB),
        Goal("drivers at once: open files of each", files, DRIVER_FILES),
        Goal("drivers at once: cells not trained exactly once or exit codes (0: none)",
             float(any(codes) or not once), 0.0),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--size", type=int, default=25)
    parser.add_argument("--drivers", type=int, default=8)
    given = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="pldload-", ignore_cleanup_errors=True) as name:
        first, goals = alone(Path(name) / "one", given.cohorts, given.size, console)
        second, more = at_once(Path(name) / "many", given.drivers, given.size, console)
    last_line("load", [*goals, *more], alone=first, at_once=second)


if __name__ == "__main__":
    main()
