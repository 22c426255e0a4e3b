"""Time cohorts beside one process per cell, one Ray trial per cell, and the lower bound of the arithmetic.

    .venv/bin/python benchmarks/cohort.py [--rounds 5] [--scenario table07]

The teacher is trained once, before anything is timed. The shell loop runs a few cells per round, so that all cells have
run by the end; its time is the measured rate times the number of cells. It is measured with one process at a time, as a
script would do, and with as many processes as there are slots.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from _floor import floor
from _measure import Goal, last_line

from pld_grid.experiment.cell import Cell
from pld_grid.planning.plan import make_plan
from pld_grid.service import calibrator, loading
from pld_grid.service.workspace import Workspace
from pld_grid.store import Receipt, Store
from pld_grid.track.database import prepare_database

ROOT = Path(__file__).parent.parent
SCENARIOS = {"table07": ["table07"], "tables 1, 2, 6": ["table01", "table02", "table06"]}
SLOTS = 2
FLOOR_EPOCHS = 2
RUN = "from pld_grid.cli import script; script()"


class Peak:
    """The peak memory of a process and its descendants, shared pages counted once, sampled every second."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.bytes, self._ended = 0, threading.Event()
        self._process = psutil.Process(process.pid)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(1.0):
            total = 0
            try:
                for process in [self._process, *self._process.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.Error:
                continue
            self.bytes = max(self.bytes, total)

    def stop(self) -> int:
        """Stop sampling; return the peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self.bytes


class Scenario:
    """The students of some tables under `digits`, with their trained teacher and a calibration."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.grids = [str(ROOT / "grids" / f"{table}.yaml") for table in SCENARIOS[name]]
        loaded = loading.load_grids(self.grids, "digits")
        self.machine = loaded[0].profile.machine
        self.template = folder / "template"
        self.template.mkdir(parents=True)
        workspace = Workspace(str(self.template / "store"), f"sqlite:///{self.template / 'mlflow.db'}")
        prepare_database(workspace.tracking_uri)
        plan = make_plan(loaded)
        self.students: list[Cell] = [plan.cells[i] for i in plan.cells if i in plan.students]
        for cell in plan.cells.values():
            if cell.cell_id not in plan.students:
                self._one_process(cell, self.template / "store")
        calibrator.calibrate(loaded, workspace)
        self.epochs = self.students[0].epochs
        self.receipts: dict[str, dict[str, Receipt]] = {}
        self.sampled: dict[str, int] = {}

    def shell(self, name: str, count: int, at_a_time: int) -> tuple[float, int]:
        """Train the next cells, a process each; return the seconds for all students at that rate, and peak bytes."""
        store = self.folder / name
        if not store.exists():
            shutil.copytree(self.template / "store", store)
        first = self.sampled.get(name, 0)
        cells = [self.students[i % len(self.students)] for i in range(first, first + count)]
        for cell in cells:
            shutil.rmtree(store / cell.cell_id, ignore_errors=True)
        started = time.perf_counter()
        with ThreadPoolExecutor(at_a_time) as pool:
            peaks = list(pool.map(lambda cell: self._one_process(cell, store), cells))
        seconds = (time.perf_counter() - started) / count * len(self.students)
        self.sampled[name] = first + count
        self._collect(name, store)
        return seconds, at_a_time * max(peaks)

    def _one_process(self, cell: Cell, store: Path) -> int:
        cell_file = self.folder / f"{cell.cell_id}.json"
        cell_file.write_text(cell.model_dump_json())
        script = Path(__file__).parent / "_train_one.py"
        command = [sys.executable, str(script), str(cell_file), str(store), self.machine.model_dump_json()]
        process = subprocess.Popen(command, text=True)
        peak = Peak(process)
        assert process.wait() == 0
        return peak.stop()

    def service(self, name: str, *flags: str) -> tuple[float, float, int]:
        """Run `pld-grid run`; return the seconds of the command, those from first student to last, and peak bytes."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        store = folder / "store"
        started = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUN,
                "run",
                *self.grids,
                "--profile",
                "digits",
                "--store",
                str(store),
                "--tracking-uri",
                f"sqlite:///{folder / 'mlflow.db'}",
                *flags,
            ],
            stderr=subprocess.DEVNULL,
            text=True,
        )
        peak = Peak(process)
        assert process.wait() == 0
        seconds = time.perf_counter() - started
        receipts = self._collect(name, store)
        begun = min(receipt.provenance.started for receipt in receipts.values())
        ended = max(receipt.provenance.ended for receipt in receipts.values())
        return seconds, ended - begun, peak.stop()

    def _collect(self, name: str, store: Path) -> dict[str, Receipt]:
        receipts = {cell.cell_id: Store(store).receipt(cell) for cell in self.students}
        self.receipts[name] = {cell_id: receipt for cell_id, receipt in receipts.items() if receipt is not None}
        return self.receipts[name]

    def floors(self) -> tuple[float, float, float]:
        """Return the seconds of all epochs: students alone, summed; all together; loading and the teacher."""
        store = Store(self.template / "store")
        alone = sum(floor([cell], store) for cell in self.students)
        together = floor(self.students, store, FLOOR_EPOCHS)
        shared = (alone - together) / (len(self.students) - 1)
        return alone * self.epochs, together * self.epochs, shared * self.epochs

    def training_seconds(self, name: str) -> float:
        """Return the seconds of the trainer's training epochs, summed over cohorts, by the rates that it recorded."""
        cohorts: dict[tuple[float, ...], float] = {}
        for receipt in self.receipts[name].values():
            images = 1442 // receipt.cell.recipe.batch_size * receipt.cell.recipe.batch_size
            rates = tuple(record.metrics["images_per_second"] for record in receipt.epochs)
            cohorts[rates] = sum(images / rate for rate in rates)
        return sum(cohorts.values())

    def same_numbers(self) -> bool:
        """Return whether all contenders gave the same numbers and weights for each student, bit for bit."""
        numbers = [
            {cell_id: _numbers(receipt) for cell_id, receipt in receipts.items()} for receipts in self.receipts.values()
        ]
        return all(len(each) == len(self.students) and each == numbers[0] for each in numbers)


def _numbers(receipt: Receipt) -> str:
    epochs = [{k: v for k, v in record.metrics.items() if k != "images_per_second"} for record in receipt.epochs]
    return json.dumps([receipt.state, receipt.weights_sha256, epochs])


def measure(scenario: Scenario, rounds: int) -> tuple[dict[str, float], list[Goal]]:
    """Alternate the contenders; print them and return medians and goals."""
    count = -(-len(scenario.students) // rounds)
    figures: dict[str, list[float]] = {}

    def record(**values: float) -> None:
        for name, value in values.items():
            figures.setdefault(name, []).append(value)

    for number in range(rounds):
        shell, shell_bytes = scenario.shell("shell", count, 1)
        pairs, pairs_bytes = scenario.shell("pairs", SLOTS * -(-count // SLOTS), SLOTS)
        single, single_span, single_bytes = scenario.service("single", "--cohort-size", "1")
        cohorts, cohorts_span, cohorts_bytes = scenario.service("cohorts")
        alone, together, shared = scenario.floors()
        record(
            shell=shell,
            pairs=pairs,
            single=single,
            cohorts=cohorts,
            single_span=single_span,
            cohorts_span=cohorts_span,
            alone=alone,
            together=together,
            shared=shared,
            training=scenario.training_seconds("cohorts"),
            shell_bytes=shell_bytes,
            pairs_bytes=pairs_bytes,
            single_bytes=single_bytes,
            cohorts_bytes=cohorts_bytes,
        )
        print(
            f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in figures.items() if "bytes" not in k),
            file=sys.stderr,
        )
    median = {name: statistics.median(values) for name, values in figures.items()}
    return median, _judge(scenario, median, max(figures["cohorts_bytes"]))


def _judge(scenario: Scenario, median: dict[str, float], peak: float) -> list[Goal]:
    n, name = len(scenario.students), scenario.name
    # Two cohorts load and run the teacher twice, and both floors use two slots.
    parts = len({r.epochs[0].metrics["images_per_second"] for r in scenario.receipts["cohorts"].values()})
    floor_parts = median["together"] + (parts - 1) * median["shared"]
    allowed = median["alone"] / median["together"]
    reached = median["single_span"] / median["cohorts_span"]
    print(f"\n{name}: {n} students, {scenario.epochs} epochs, {parts} cohorts in {SLOTS} slots of one thread")
    print(f"{'':44} {'seconds':>9} {'of shell':>9} {'peak MB':>9}")
    for text, key in (
        ("a process per cell, one after the other", "shell"),
        (f"a process per cell, {SLOTS} at a time", "pairs"),
        ("Ray, a trial per cell (cohort size 1)", "single"),
        ("Ray, cohorts", "cohorts"),
    ):
        print(f"{text:44} {median[key]:9.1f} {median[key] / median['shell']:9.3f} {median[key + '_bytes'] / 1e6:9.0f}")
    for text, key in (
        ("  first student to last, cohort size 1", "single_span"),
        ("  first student to last, cohorts", "cohorts_span"),
        ("  training epochs of all cohorts, summed", "training"),
        ("floor: every student alone, summed", "alone"),
        ("floor: all students on one stream", "together"),
        ("  of that loading and the teacher", "shared"),
    ):
        print(f"{text:44} {median[key]:9.1f}")
    print(
        f"speed-up over cohort size 1: {reached:.2f} (whole command {median['single'] / median['cohorts']:.2f}); "
        f"the floors allow {allowed:.2f}, and {median['alone'] / floor_parts:.2f} in {parts} cohorts"
    )
    same = scenario.same_numbers()
    print(f"the same numbers bit for bit, all ways: {'yes' if same else 'NO'}")
    return [
        Goal(f"{name}: shell loop / cohorts", median["shell"] / median["cohorts"], 5, least=True),
        Goal(f"{name}: share of the speed-up that the floors allow", reached / allowed, 0.9, least=True),
        Goal(
            f"{name}: floor / the trainer's training epochs", median["together"] / median["training"], 0.9, least=True
        ),
        Goal(f"{name}: the same numbers all ways", float(same), 1, least=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenario", choices=list(SCENARIOS), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds, goals = {}, []
    for name in arguments.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="pld_grid-bench-", ignore_cleanup_errors=True) as folder:
            seconds[name], judged = measure(Scenario(name, Path(folder)), arguments.rounds)
            goals += judged
    last_line("cohort", goals, seconds={k: {n: round(s, 2) for n, s in v.items()} for k, v in seconds.items()})


if __name__ == "__main__":
    main()
