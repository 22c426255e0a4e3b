"""The command line as people start it: a process of its own, with its own home, store and MLflow."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

import psutil
from living import family, kill_all

from pld_grid import api
from pld_grid.store import Receipt, Store

# Settings of whoever runs the tests must not reach them.
_FOREIGN = ("RAY_", "MLFLOW_", "PLD_GRID_", "TUNE_", "FORCE_COLOR", "TTY_", "NO_COLOR")

PROFILE = """
description: digits at 8 pixels, for tests
dataset: {name: digits, image_size: 8}
recipe:
  batch_size: 180
  micro_batch_size: 180
  warmup_epochs: 0.5
  augmentation: {crop: padded, padding: 1}
  mean: [0.3]
  std: [0.38]
optimizer: adamw
optimizers:
  adamw: {learning_rate: 2e-3, weight_decay: 0.02}
  lamb: {learning_rate: 1e-2}
teachers: {source: trained, epochs: 2}
models:
  big: {architecture: test_resnet}
  small: {architecture: test_vit, options: {img_size: 8, patch_size: 4, depth: 1}}
"""

GRID = """
cells:
  teacher: big
  student: small
  epochs: 6
  loss: [ce, kd, dist, pld]
  optimizer: [adamw, lamb]
table:
  title: Losses under two optimizers
  rows: [optimizer]
  columns:
    - {header: Optimizer, axis: optimizer}
    - {header: CE, metric: top1, where: {loss: ce}}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: DIST, metric: top1, where: {loss: dist}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Delta_KD, minus: [PLD, KD]}
    - {header: KL, metric: kl_teacher_student, where: {loss: pld}}
"""


# Seconds after which a process that tests wait for counts as hanging: many times what any takes.
PATIENCE = 1200
_started: list["subprocess.Popen[str]"] = []


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Ends what is started within and lives on, as it does when a test fails: nothing runs beside other tests."""
    before = len(_started)
    try:
        yield
    finally:
        for process in _started[before:]:
            if process.poll() is None:
                kill_all([*family(process), psutil.Process(process.pid)])
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        del _started[before:]


def isolated(home: Path) -> dict[str, str]:
    """This environment without anybody's settings for Ray, MLflow or us, and with a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    return kept | {"HOME": str(home), "PLD_GRID_COMMIT": "test", "COLUMNS": "200"}


class Service:
    """A folder with a grid and a profile, and `pld-grid` run in it."""

    def __init__(self, folder: Path, *, profile: str = PROFILE, grid: str = GRID, database: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if database is not None:
            (folder / ".pld_grid").mkdir()
            shutil.copy(database, folder / ".pld_grid" / "mlflow.db")
        (folder / "tiny.yaml").write_text(profile)
        (folder / "losses.yaml").write_text(grid)
        (folder / "home").mkdir(exist_ok=True)
        self.environment = isolated(folder / "home")

    @property
    def store(self) -> Path:
        """Where the default store lies."""
        return self.folder / ".pld_grid" / "store"

    @property
    def tracking_uri(self) -> str:
        """Where the default MLflow is."""
        return f"sqlite:///{self.folder / '.pld_grid' / 'mlflow.db'}"

    def start(self, command: str, *arguments: str) -> "subprocess.Popen[str]":
        """Starts `pld-grid COMMAND losses.yaml --profile tiny.yaml ...`; output is piped."""
        needs_grid = command in ("run", "plan", "report", "calibrate", "submit")
        grid = ["losses.yaml", "--profile", "tiny.yaml"] if needs_grid else []
        process = subprocess.Popen(
            [sys.executable, "-c", "from pld_grid.cli import script; script()", command, *grid, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _started.append(process)
        return process

    def run(self, command: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Runs to the end; (standard output, standard error). Fails unless the exit code is `code`."""
        process = self.start(command, *arguments)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out, err

    def tables(self, source: Literal["store", "mlflow"] = "store") -> dict[str, bytes]:
        """The report's files by name, rebuilt from a source (in this process, which has torch loaded already)."""
        out = self.folder / f"report-{source}"
        grid = api.load_grid(self.folder / "losses.yaml", str(self.folder / "tiny.yaml"))
        api.report([grid], out, api.Workspace(str(self.store), self.tracking_uri), source=source)
        return contents(out)

    def numbers(self, source: Literal["store", "mlflow"] = "store") -> dict[str, bytes]:
        """All that is equal after equal experiments: tables, curves, records without their times, and weights."""
        files = self.tables(source)
        files["records.jsonl"] = b"".join(_timeless(line) for line in files["records.jsonl"].splitlines()[1:])
        # What links to MLflow's runs, or says what students happened to share.
        for name in [n for n in files if n.startswith(("index.", "provenance.", "README.", "figures/cost."))]:
            del files[name]
        store = Store(self.store)
        for cell_id, receipt in self.receipts().items():
            if receipt.weights_sha256 is not None:
                files[cell_id] = hashlib.sha256(store.weights_of(receipt.cell)).digest()
        return files

    def receipts(self) -> dict[str, Receipt]:
        """What has been finished, by cell id."""
        store = Store(self.store)
        found = {cell_id: store.receipt(cell_id) for cell_id in store.cell_ids()}
        return {cell_id: receipt for cell_id, receipt in found.items() if receipt is not None}


def _timeless(line: bytes) -> bytes:
    """A record without when and how fast it came to be, and in which of MLflow's runs it is."""
    passing = {"started", "ended", "time", "images_per_second", "run_id", "experiment_id"}
    record = json.loads(line, object_hook=lambda found: {k: v for k, v in found.items() if k not in passing})
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> str:
    """Reads standard error up to a line with a text in it, and returns that line."""
    with _patience(process) as errors:
        for line in errors:
            if text in line:
                return line
    raise AssertionError(f"the process ended (exit {process.wait()}) without a line that has {text!r} in it")


def wait_for(process: "subprocess.Popen[str]", happened: Callable[[], object]) -> None:
    """Looks until something happened that a running process brings about."""
    until = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, f"the process ended: {rest(process)}"
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def rest(process: "subprocess.Popen[str]") -> str:
    """What is left of standard error after `wait_for_line`, and the process's end."""
    with process, _patience(process) as errors:
        return errors.read()


@contextlib.contextmanager
def _patience(process: "subprocess.Popen[str]") -> Iterator[IO[str]]:
    """The process's standard error, which ends at last even if the process hangs: that is killed then."""
    assert process.stderr is not None
    timer = threading.Timer(PATIENCE, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield process.stderr
    finally:
        timer.cancel()


def answer(process: "subprocess.Popen[str]", url: str) -> bytes:
    """What a server that is starting answers, asked again until it does."""
    answers: list[bytes] = []

    def ask() -> list[bytes]:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            answers.append(response.read())
        return answers

    wait_for(process, ask)
    return answers[0]
