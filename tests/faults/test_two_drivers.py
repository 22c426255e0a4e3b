"""Several drivers on one store: every cell is trained exactly once, and everybody reports the same results."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from chaos import LONG, LONG_PROFILE, OTHER, SHARED, Run, Witness, check_whole
from counting import DRIVER_BESIDE, Count, Undisturbed, Watch
from early import GATED, IMPATIENT, Gate, early
from living import status
from service import Service, contents

from pld_grid.store import Store, claims

# The process that is about to put the first weights in their place stops there; and its weights are not quite those
# that others get, as another kind of device makes them. Nobody here takes anybody for dead.
STOPS = """
import fnmatch, signal


def stopping(move):
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


os.replace = stopping(os.replace)


def otherwise(module):
    dump = module.dump_weights
    module.dump_weights = lambda model: dump(model) + b" "


after_import("pld_grid.train.training", otherwise)
after_import("pld_grid.store.leases", lambda module: setattr(module, "LAPSED", 3600.0))
"""


class Drivers:
    """Runs of LONG on one store, whose students train no further than a gate lets them."""

    def __init__(self, folder: Path, database: Path, watch: Watch) -> None:
        self.service = Service(folder / "run", profile=LONG_PROFILE, grid=LONG, database=database)
        (self.service.folder / "other.yaml").write_text(OTHER)
        self.witness = Witness(folder / "witness")
        self.gate = Gate(self.witness.folder, 10**6)
        self.service.environment |= early(self.witness.folder, GATED, after=self.witness.folder)
        self.watch = watch
        self.runs: list[Run] = []

    def start(self, *arguments: str, changes: Path | None = None, grid: str = "losses.yaml") -> Run:
        """Starts `pld-grid run`, with the `sitecustomize` of a folder if one is given."""
        command = [sys.executable, "-c", "from pld_grid.cli import script; script()", "run", grid]
        process = subprocess.Popen(
            [*command, "--profile", "tiny.yaml", *arguments],
            cwd=self.service.folder,
            env=self.service.environment | ({"PYTHONPATH": self._path(changes)} if changes else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.runs.append(self.watch(process))
        return self.runs[-1]

    def _path(self, changes: Path) -> str:
        return self.service.environment["PYTHONPATH"].replace(str(self.witness.folder), str(changes), 1)

    @property
    def seen(self) -> set[psutil.Process]:
        """Every process that a driver was seen to start."""
        return {process for run in self.runs for process in run.seen}

    def reached(self, epoch: int) -> bool:
        """Whether a student has a checkpoint of an epoch."""
        return any(self.service.store.glob(f"*/checkpoints/{epoch:06d}.json"))

    def logs(self) -> dict[str, list[str]]:
        """What the logs of the cells say, in order, by cell id."""
        store = Store(self.service.store)
        return {cell_id: [entry.kind for entry in claims.entries(store, cell_id)] for cell_id in store.cell_ids()}

    def check_once(self) -> None:
        """That no epoch of any cell was begun twice."""
        begun = Counter((each.cell_id, each.epoch) for each in self.witness.begun())
        assert {cell_id for cell_id, _ in begun} == self.service.receipts().keys()
        assert [pair for pair, times in begun.items() if times > 1] == []


@pytest.fixture
def drivers(tmp_path: Path, database: Path, watch: Watch) -> Drivers:
    return Drivers(tmp_path, database, watch)


def test_three_drivers_train_each_cell_once_and_report_the_same(
    drivers: Drivers, undisturbed: Undisturbed, count: Count
) -> None:
    drivers.gate.open(5)
    first, second = drivers.start("--report", "first"), drivers.start("--report", "second")
    first.wait_for(lambda: drivers.reached(5))
    # In the middle of the students' training, one who wants some of them and others.
    third = drivers.start("--report", "third", grid="other.yaml")
    third.wait_for(lambda: SHARED in third.said)
    drivers.gate.open()
    for run in drivers.runs:
        assert run.end() == 0, run.said
        assert "Traceback" not in run.said
    assert SHARED in first.said + second.said
    assert "failed" not in (contents(drivers.service.folder / "third")["other.md"]).decode()
    count("driver beside another on the same cells", 2)
    drivers.check_once()
    logs = drivers.logs()
    assert len(logs) == 7
    assert set(map(tuple, logs.values())) == {("claimed", "finished")}
    # Each report was complete when its driver ended.
    expected = undisturbed(LONG_PROFILE, LONG)
    for name in ("first", "second"):
        report = contents(drivers.service.folder / name)
        tables = {file for file in expected.keys() & report.keys() if not file.endswith(".jsonl")}
        assert len(tables) > 3
        assert [file for file in sorted(tables) if report[file] != expected[file]] == []
    # OTHER has cells of its own.
    found = drivers.service.numbers()
    assert {file: found.get(file) for file in expected} == expected
    check_whole(drivers.service, found, drivers.seen)


def test_owners_cancel_and_die_and_the_next_goes_on(drivers: Drivers, undisturbed: Undisturbed, count: Count) -> None:
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
        # A driver begins with what it finds free, so that some students may wait for others.
        owner.wait_for(lambda epoch=epoch: drivers.reached(epoch))
        following = drivers.start()
        following.wait_for(lambda run=following: SHARED in run.said)
        end(owner)
        if what == "whole job":
            count.kill(DRIVER_BESIDE)
        else:
            owner.wait_for(lambda run=owner: "stopping after the running epochs" in run.said)
            # They wait at the gate for their next epoch, which they end.
            drivers.gate.open(epoch + 1)
            assert owner.end() == 130, owner.said
            count(f"{what} to one of two drivers")
        epoch += 3
        drivers.gate.open(epoch)
        owner = following
    drivers.gate.open()
    assert owner.end() == 0, owner.said
    drivers.witness.repeated()
    assert all(log.count("finished") == 1 and log[-1] == "finished" for log in drivers.logs().values())
    check_whole(drivers.service, undisturbed(LONG_PROFILE, LONG), drivers.seen)


def test_who_seemed_dead_and_wakes_up_changes_nothing(
    drivers: Drivers, undisturbed: Undisturbed, tmp_path: Path, count: Count
) -> None:
    slow, hasty = tmp_path / "slow", tmp_path / "hasty"
    early(slow, STOPS)
    (slow / "stop").touch()
    early(hasty, IMPATIENT)
    first = drivers.start(changes=slow)

    def stopped() -> list[psutil.Process]:
        return [trial for trial in first.trials() if status(trial) == psutil.STATUS_STOPPED]

    first.wait_for(stopped)
    count("trial stopped (SIGSTOP) until another had finished its cell")
    trial = stopped()[0]
    second = drivers.start(changes=hasty)
    second.wait_for(drivers.service.receipts)
    teacher = next(iter(drivers.service.receipts()))
    receipt = (drivers.service.store / teacher / "receipt.json").read_bytes()
    trial.resume()
    for run in (first, second):
        assert run.end() == 0, run.said
        assert "Traceback" not in run.said
    assert (drivers.service.store / teacher / "receipt.json").read_bytes() == receipt
    assert drivers.logs()[teacher] == ["claimed", "claimed", "finished"]
    assert all(log.count("finished") == 1 for log in drivers.logs().values())
    expected = undisturbed(LONG_PROFILE, LONG)
    # The first driver's own weights are others, and right for who has no better ones.
    found = drivers.service.numbers()
    assert {name for name in found if found[name] != expected.get(name)} <= expected.keys() & drivers.logs().keys()
    assert found[teacher] == expected[teacher]

    # Trained again by two at once: the results there were are kept, and those there are are whole.
    student = next(cell_id for cell_id in drivers.logs() if cell_id != teacher)
    again = [drivers.start("--only", student, "--again") for _ in range(2)]
    for run in again:
        assert run.end() == 0, run.said
        assert "Traceback" not in run.said
    kept = list(drivers.service.store.glob(f"{student}.replaced-*"))
    assert 1 <= len(kept) <= 2
    assert sum("earlier results kept" in run.said for run in again) == len(kept)
    assert all((folder / name).is_file() for folder in kept for name in ("receipt.json", "weights.safetensors"))
    assert drivers.logs()[student][-1] == "finished"
    assert drivers.service.numbers()[student] == expected[student]
