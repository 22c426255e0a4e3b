"""The command line in a process of its own, with its own home, store and MLflow."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Literal

import psutil
import pytest
from live_processes import kill_all, list_descendants

from pld_grid import cli
from pld_grid.experiment.grid import Grid
from pld_grid.service import loading, report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import Receipt, Store

# Variables of the user who runs the tests, which must not reach them.
_USER_VARIABLES = ("RAY_", "MLFLOW_", "PLD_GRID_", "TUNE_", "FORCE_COLOR", "TTY_", "NO_COLOR")

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


# A process that takes longer counts as hanging; each takes a small part of this.
RETRY_TIMEOUT_SECONDS = 600
_started: list["subprocess.Popen[str]"] = []


@contextlib.contextmanager
def processes_ended() -> Iterator[None]:
    """Kill processes that were started within and still run, as after a failed test."""
    before = len(_started)
    try:
        yield
    finally:
        for process in _started[before:]:
            if process.poll() is None:
                kill_all([*list_descendants(process), psutil.Process(process.pid)])
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        del _started[before:]


def isolated(home: Path) -> dict[str, str]:
    """Return this environment with its own home, without the user's settings for Ray, MLflow or pld_grid."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_USER_VARIABLES)}
    # Importing torchvision creates this folder, by default below TMPDIR, which some tests set and watch.
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), "pld_grid-torchinductor"))}
    return kept | compiled | {"HOME": str(home), "PLD_GRID_COMMIT": "test", "COLUMNS": "200"}


def start_cli(folder: Path, environment: Mapping[str, str], *words: str) -> "subprocess.Popen[str]":
    """Start `pld-grid WORDS` in a folder; output is piped."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from pld_grid.cli import script; script()", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def run_in_process(
    monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Run `pld-grid WORDS` in this process; return exit code, standard output and standard error."""
    for name in ("errors", "output"):
        console = cli.console._SafeConsole(stderr=name == "errors", force_terminal=False)
        monkeypatch.setattr(cli.console, name, console)
    monkeypatch.setattr("sys.argv", ["pld-grid", *words])
    capture.readouterr()
    with pytest.raises(SystemExit) as exited:
        cli.main()
    out, err = capture.readouterr()
    return int(exited.value.code or 0), out, err


def run_python(code: str, *arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run Python code in a process of its own; return standard output. Fails unless it succeeds."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        """The default store."""
        return self.folder / ".pld_grid" / "store"

    @property
    def tracking_uri(self) -> str:
        """The default MLflow."""
        return f"sqlite:///{self.folder / '.pld_grid' / 'mlflow.db'}"

    def load_grid(self) -> Grid:
        """Load the grid in this process."""
        return loading.load_grid(self.folder / "losses.yaml", str(self.folder / "tiny.yaml"))

    def start(self, command: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start `pld-grid COMMAND losses.yaml --profile tiny.yaml ...`; output is piped."""
        needs_grid = command in ("run", "plan", "report", "calibrate", "submit")
        grid = ["losses.yaml", "--profile", "tiny.yaml"] if needs_grid else []
        return start_cli(self.folder, self.environment, command, *grid, *arguments)

    def finish(self, process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
        """Wait for a process to end; return its output. Fails unless its exit code is `code`."""
        out, err = process.communicate(timeout=RETRY_TIMEOUT_SECONDS)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out, err

    def run(self, command: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run `pld-grid COMMAND losses.yaml --profile tiny.yaml ...`; return its output, as `finish` does."""
        return self.finish(self.start(command, *arguments), code)

    def call(self, *words: str, code: int = 0) -> tuple[str, str]:
        """Run `pld-grid WORDS`; return its output, as `finish` does."""
        return self.finish(start_cli(self.folder, self.environment, *words), code)

    def tables(self, source: Literal["store", "mlflow"] = "store") -> dict[str, bytes]:
        """Return the report's files by name, rebuilt from a source in this process."""
        out = self.folder / f"report-{source}"
        grid = self.load_grid()
        report_writer.write_report([grid], out, Workspace(str(self.store), self.tracking_uri), source=source)
        return contents(out)

    def numbers(self, source: Literal["store", "mlflow"] = "store") -> dict[str, bytes]:
        """Return everything that equal experiments share: tables, curves, records without times, and weights."""
        files = self.tables(source)
        files["records.jsonl"] = b"".join(_timeless(line) for line in files["records.jsonl"].splitlines()[1:])
        # These link to MLflow's runs, or show which cohort a student was in.
        for name in [n for n in files if n.startswith(("index.", "provenance.", "README.", "figures/cost."))]:
            del files[name]
        store = Store(self.store)
        for cell_id, receipt in self.receipts().items():
            if receipt.weights_sha256 is not None:
                files[cell_id] = hashlib.sha256(store.read_weights(receipt.cell)).digest()
        return files

    def receipts(self) -> dict[str, Receipt]:
        """Return the receipts of finished cells by id."""
        store = Store(self.store)
        receipts = {cell_id: store.receipt(cell_id) for cell_id in store.cell_ids()}
        return {cell_id: receipt for cell_id, receipt in receipts.items() if receipt is not None}


def _timeless(line: bytes) -> bytes:
    """Return a record without its times, its speed and its MLflow run."""
    variable = {"started", "ended", "time", "images_per_second", "run_id", "experiment_id"}
    record = json.loads(line, object_hook=lambda fields: {k: v for k, v in fields.items() if k not in variable})
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> str:
    """Read standard error up to a line that contains a text, and return that line."""
    with _stderr_with_timeout(process) as errors:
        for line in errors:
            if text in line:
                return line
    raise AssertionError(f"the process ended (exit {process.wait()}) without a line that contains {text!r}")


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], object]) -> None:
    """Poll until a running process has caused a condition."""
    until = time.monotonic() + RETRY_TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None, f"the process ended: {rest(process)}"
        assert time.monotonic() < until, "the condition did not become true"
        time.sleep(0.02)


def rest(process: "subprocess.Popen[str]") -> str:
    """Return the remaining standard error, and wait for the process to end."""
    with process, _stderr_with_timeout(process) as errors:
        return errors.read()


@contextlib.contextmanager
def _stderr_with_timeout(process: "subprocess.Popen[str]") -> Iterator[IO[str]]:
    """Yield the process's standard error; kill the process if it hangs."""
    timer = threading.Timer(RETRY_TIMEOUT_SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield process.stderr
    finally:
        timer.cancel()


def answer(process: "subprocess.Popen[str]", url: str) -> bytes:
    """Return a starting server's response, retrying until there is one."""
    answers: list[bytes] = []

    def ask() -> list[bytes]:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            answers.append(response.read())
        return answers

    wait_for(process, ask)
    return answers[0]
