"""Several drivers on one store: every cell is trained exactly once, and all report the same results."""

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cli_process import Service, contents, start_cli
from fault_counts import DRIVER_BESIDE, Watch
from live_processes import process_status
from process_kills import LONG, LONG_PROFILE, OTHER, SHARED, Recorder, Run, check_results
from startup_code import EPOCH_GATE, SHORT_LEASES, Gate, write_startup_code

from pld_grid.store import Store, claims

# The first process that is about to write weights stops before, and its weights differ from others', as on another kind
# of device. Leases do not expire in these processes.
STOPS = """
import fnmatch, signal


def stop_before(move):
    def call(source, destination, **options):
        if fnmatch.fnmatch(os.fspath(destination), "*/weights*.safetensors"):
            try:
                os.unlink(f"{HERE}/stop")
            except FileNotFoundError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGSTOP)
        return move(source, destination, **options)
    return call


os.replace = stop_before(os.replace)


def change_weights(module):
    dump = module.dump_weights
    module.dump_weights = lambda model: dump(model) + b" "


after_import("pld_grid.train.recorder", change_weights)
after_import("pld_grid.store.leases", lambda module: setattr(module, "LEASE_TTL_SECONDS", 3600.0))
"""


class Drivers:
    """Runs of LONG on one store, whose students train as far as a gate allows."""

    def __init__(self, folder: Path, database: Path, watch: Watch) -> None:
        self.service = Service(folder / "run", profile=LONG_PROFILE, grid=LONG, database=database)
        (self.service.folder / "other.yaml").write_text(OTHER)
        self.recorder = Recorder(folder / "witness")
        self.gate = Gate(self.recorder.folder, 10**6)
        self.service.environment |= write_startup_code(self.recorder.folder, EPOCH_GATE, after=self.recorder.folder)
        self.watch = watch
        self.runs: list[Run] = []

    def start(self, *arguments: str, changes: Path | None = None, grid: str = "losses.yaml") -> Run:
        """Start `pld-grid run`, with the `sitecustomize` of a folder if one is given."""
        environment = self.service.environment | ({"PYTHONPATH": self._path(changes)} if changes else {})
        process = start_cli(self.service.folder, environment, "run", grid, "--profile", "tiny.yaml", *arguments)
        self.runs.append(self.watch(process))
        return self.runs[-1]

    def _path(self, changes: Path) -> str:
        return self.service.environment["PYTHONPATH"].replace(str(self.recorder.folder), str(changes), 1)

    @property
    def started(self) -> set[psutil.Process]:
        """All processes that the drivers were seen to start."""
        return {process for run in self.runs for process in run.started}

    def reached(self, epoch: int) -> bool:
        """Return whether a student has a checkpoint of an epoch."""
        return any(self.service.store.glob(f"*/checkpoints/{epoch:06d}.json"))

    def logs(self) -> dict[str, list[str]]:
        """Return the kinds of the claim entries, in order, by cell id."""
        store = Store(self.service.store)
        return {cell_id: [entry.kind for entry in claims.read_log(store, cell_id)] for cell_id in store.cell_ids()}

    def check_once(self) -> None:
        """Assert that no epoch of any cell was started twice."""
        started = Counter((each.cell_id, each.epoch) for each in self.recorder.epochs_started())
        assert {cell_id for cell_id, _ in started} == self.service.receipts().keys()
        assert [pair for pair, times in started.items() if times > 1] == []


@pytest.fixture
def drivers(tmp_path: Path, database: Path, watch: Watch) -> Drivers:
    return Drivers(tmp_path, database, watch)


def test_three_drivers_train_each_cell_once_and_report_the_same_results(drivers, undisturbed, count):
    drivers.gate.open(5)
    first, second = drivers.start("--report", "first"), drivers.start("--report", "second")
    first.wait_for(lambda: drivers.reached(5))
    # In the middle of the students' training, one who wants some of them and others.
    third = drivers.start("--report", "third", grid="other.yaml")
    third.wait_for(lambda: SHARED in third.output)
    drivers.gate.open()
    for run in drivers.runs:
        assert run.end() == 0, run.output
        assert "Traceback" not in run.output
    assert SHARED in first.output + second.output
    assert "failed" not in (contents(drivers.service.folder / "third")["other.md"]).decode()
    count("driver beside another on the same cells", 2)
    drivers.check_once()
    logs = drivers.logs()
    assert len(logs) == 7
    assert set(map(tuple, logs.values())) == {("claimed", "finished")}
    # Each driver's report was complete.
    expected = undisturbed(LONG_PROFILE, LONG)
    for name in ("first", "second"):
        report = contents(drivers.service.folder / name)
        tables = {file for file in expected.keys() & report.keys() if not file.endswith(".jsonl")}
        assert len(tables) > 3
        assert [file for file in sorted(tables) if report[file] != expected[file]] == []
    # OTHER has further cells.
    numbers = drivers.service.numbers()
    assert {file: numbers.get(file) for file in expected} == expected
    check_results(drivers.service, numbers, drivers.started)


def test_driver_that_is_interrupted_or_killed_is_followed_by_the_next(drivers, undisturbed, count):
    ends: list[tuple[str, Callable[[Run], None]]] = [
        ("SIGINT", lambda run: run.process.send_signal(signal.SIGINT)),
        ("whole job", lambda run: run.kill_all()),
        ("SIGTERM", lambda run: run.process.send_signal(signal.SIGTERM)),
    ]
    # The teacher has four epochs.
    epoch = 5
    drivers.gate.open(epoch)
    owner = drivers.start()
    for what, end in ends:
        # A driver starts with the cells that are free, so that some students may wait for others.
        owner.wait_for(lambda epoch=epoch: drivers.reached(epoch))
        following = drivers.start()
        following.wait_for(lambda run=following: SHARED in run.output)
        end(owner)
        if what == "whole job":
            count.kill(DRIVER_BESIDE)
        else:
            owner.wait_for(lambda run=owner: "stopping after the running epochs" in run.output)
            # The students wait at the gate for the next epoch, which they complete.
            drivers.gate.open(epoch + 1)
            assert owner.end() == 130, owner.output
            count(f"{what} to one of two drivers")
        epoch += 3
        drivers.gate.open(epoch)
        owner = following
    drivers.gate.open()
    assert owner.end() == 0, owner.output
    drivers.recorder.count_repeated_epochs()
    assert all(log.count("finished") == 1 and log[-1] == "finished" for log in drivers.logs().values())
    check_results(drivers.service, undisturbed(LONG_PROFILE, LONG), drivers.started)


def test_suspended_driver_that_resumes_after_its_lease_expired_changes_nothing(drivers, undisturbed, tmp_path, count):
    slow, hasty = tmp_path / "slow", tmp_path / "hasty"
    write_startup_code(slow, STOPS)
    (slow / "stop").touch()
    write_startup_code(hasty, SHORT_LEASES)
    first = drivers.start(changes=slow)

    def stopped() -> list[psutil.Process]:
        return [trial for trial in first.list_trials() if process_status(trial) == psutil.STATUS_STOPPED]

    first.wait_for(stopped)
    count("trial stopped (SIGSTOP) until another had finished its cell")
    trial = stopped()[0]
    second = drivers.start(changes=hasty)
    second.wait_for(drivers.service.receipts)
    teacher = next(iter(drivers.service.receipts()))
    receipt = (drivers.service.store / teacher / "receipt.json").read_bytes()
    trial.resume()
    for run in (first, second):
        assert run.end() == 0, run.output
        assert "Traceback" not in run.output
    assert (drivers.service.store / teacher / "receipt.json").read_bytes() == receipt
    assert drivers.logs()[teacher] == ["claimed", "claimed", "finished"]
    assert all(log.count("finished") == 1 for log in drivers.logs().values())
    expected = undisturbed(LONG_PROFILE, LONG)
    # The first driver's own weights differ, and are correct for the cells that it finished.
    numbers = drivers.service.numbers()
    assert {name for name in numbers if numbers[name] != expected.get(name)} <= expected.keys() & drivers.logs().keys()
    assert numbers[teacher] == expected[teacher]

    # Retrained by two drivers at once, the earlier results are kept and the new ones are complete.
    student = next(cell_id for cell_id in drivers.logs() if cell_id != teacher)
    again = [drivers.start("--only", student, "--again") for _ in range(2)]
    for run in again:
        assert run.end() == 0, run.output
        assert "Traceback" not in run.output
    kept = list(drivers.service.store.glob(f"{student}.replaced-*"))
    assert 1 <= len(kept) <= 2
    assert sum("earlier results kept" in run.output for run in again) == len(kept)
    assert all((folder / name).is_file() for folder in kept for name in ("receipt.json", "weights.safetensors"))
    assert drivers.logs()[student][-1] == "finished"
    assert drivers.service.numbers()[student] == expected[student]
