"""Full disks: of the store, of Ray's temporary folder, of MLflow's database."""

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from cli_process import GRID, PROFILE, Service, contents
from process_kills import Run, check_results
from size_limited_disk import KIB, MIB, SmallDisk, small_disk

from pld_grid.store import Store

# Error lines before a run starts, and while it runs.
SHORTAGE = (
    r"error: .*about \d+\.\d MiB needed.*, \d+\.\d MiB free; free some, or name another place \((?P<choice>[\w-]+)\)"
)
FULL = (
    r"error: store (?P<store>\S+): cannot write \S+ \(\d+\.\d MiB\): No space left on device; "
    r"\d+\.\d MiB are free; the data in the store is intact, and the same command continues from there"
)


@pytest.fixture
def ray_disk() -> Iterator[SmallDisk]:
    """A disk for Ray with a short path, as its sockets need."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, small_disk(Path(folder, "d"), 40 * MIB) as disk:
        yield disk


def _seen(runs: Iterable[Run]) -> list[psutil.Process]:
    return [process for run in runs for process in run.started]


def _written(folder: Path, number: int) -> Callable[[], bool]:
    """Return a check whether this number of new files has appeared in cells, even if some are gone again."""
    before, seen = set(folder.glob("*/**/*.*")), set[Path]()

    def look() -> bool:
        with suppress(FileNotFoundError):
            seen.update(path for path in folder.glob("*/**/*.*") if path not in before)
        return len(seen) >= number

    return look


def _last_line(err: str) -> str:
    return err.strip().splitlines()[-1]


def _check_nothing_half_written_counts(store: Store) -> None:
    """Check that receipts and weights are complete, damaged checkpoints do not load, and no other files are left."""
    for cell_id in store.cell_ids():
        receipt, cell = store.receipt(cell_id), store.cell(cell_id)
        if receipt is not None:
            assert store.has_weights(receipt)
        elif cell is not None:
            # This verifies the checksum, and quarantines a damaged checkpoint.
            store.load_checkpoint(cell)
    assert list(Path(store.root).rglob("*.tmp")) == []
    # A failed write leaves the earlier file, or none.
    assert list(Path(store.root).rglob("damaged/*")) == []


def test_full_store_stops_the_run_and_loses_nothing(tmp_path, database, undisturbed, count, chance):
    service = Service(tmp_path, database=database)
    store, runs = Store(service.store), list[Run]()
    with small_disk(service.store, 40 * MIB) as disk:
        for _ in range(2):
            # At a random moment: while checkpoints, weights, receipts, claims or leases are written.
            written = _written(service.store, chance.randint(1, 12))
            finished = {path: path.read_bytes() for path in service.store.rglob("receipt.json")}
            run = Run(service.start("run"))
            runs.append(run)
            run.wait_for(written)
            with disk.full(leave=chance.randrange(0, 600 * KIB)):
                assert run.end() == 2, run.output
                count("store full")
                assert re.fullmatch(FULL, _last_line(run.output)), run.output
                assert "Traceback" not in run.output
                _check_nothing_half_written_counts(store)
                # Finished cells are unchanged.
                assert {path: path.read_bytes() for path in finished} == finished
                # While the disk is full, a run does not start.
                here = contents(service.store)
                _, err = service.run("run", code=2)
                assert re.fullmatch(SHORTAGE, _last_line(err)), err
                assert contents(service.store) == here
        last = Run(service.start("run"))
        runs.append(last)
        assert last.end() == 0, last.output
        check_results(service, undisturbed(PROFILE, GRID), _seen(runs))


def test_forecast_disk_space_is_enough(tmp_path, database, undisturbed, ray_disk):
    service = Service(tmp_path)
    service.environment["RAY_TMPDIR"] = str(ray_disk.path)
    with ExitStack() as stack:
        mlflow = stack.enter_context(small_disk(service.folder / ".pld_grid", MIB))
        store = stack.enter_context(small_disk(service.store, MIB))
        shutil.copy(database, mlflow.path / "mlflow.db")
        with ray_disk.full(leave=MIB):
            here = contents(mlflow.path)
            _, err = service.run("run", code=2)
            # One line names all disks.
            shortages = re.findall(r"(store|MLflow|Ray) \S+: about (\d+\.\d) MiB needed", _last_line(err))
            assert [kind for kind, _ in shortages] == ["store", "MLflow", "Ray"], err
            assert contents(mlflow.path) == here
            assert [path.name for path in ray_disk.path.iterdir()] == ["filler"]
        needed = {kind: int((float(size) + 0.1) * MIB) for kind, size in shortages}
        mlflow.resize(needed["MLflow"] + len(here["mlflow.db"]))
        store.resize(needed["store"])
        with ray_disk.full(leave=needed["Ray"]):
            service.run("run")
        assert service.numbers() == undisturbed(PROFILE, GRID)
        assert service.numbers("mlflow") == undisturbed(PROFILE, GRID)


def test_full_ray_disk_is_one_error_line(tmp_path, database, undisturbed, ray_disk, count):
    service = Service(tmp_path, database=database)
    service.environment["RAY_TMPDIR"] = str(ray_disk.path)
    runs = [Run(service.start("run"))]
    # In the first of two waves: running cohorts continue, the second wave cannot start.
    runs[0].wait_for(lambda: list(service.store.glob("*/cell.json")))
    with ray_disk.full():
        assert runs[0].end() == 2, runs[0].output
        count("Ray's temporary folder full")
    assert "Traceback" not in runs[0].output
    assert re.search(r"Ray's temporary folder is full \(.+\); free about \d+ MiB", _last_line(runs[0].output))
    runs.append(Run(service.start("run")))
    assert runs[1].end() == 0, runs[1].output
    check_results(service, undisturbed(PROFILE, GRID), _seen(runs))


def test_full_mlflow_disk_does_not_stop_training(tmp_path, database, undisturbed, count, chance):
    service = Service(tmp_path)
    with small_disk(service.folder / ".pld_grid", 40 * MIB) as disk, small_disk(service.store, 40 * MIB):
        shutil.copy(database, disk.path / "mlflow.db")
        run = Run(service.start("run"))
        mirrored = chance.randint(0, 1)
        # Training has begun: before that, the run checks that there is enough space.
        run.wait_for(lambda: list(service.store.glob("*/claims/*.json")))
        run.wait_for(lambda: len(list(disk.path.glob("mlartifacts/*"))) >= mirrored)
        with disk.full(leave=chance.randrange(0, 200 * KIB)):
            assert run.end() == 0, run.output
            count("MLflow's disk full")
            assert "9 cells trained" in run.output
            assert "Traceback" not in run.output
            warnings = [line for line in run.output.splitlines() if "disk is full" in line or "No space left" in line]
            assert len(warnings) == 1, run.output
            assert "training goes on" in warnings[0]
            assert "`pld-grid sync` logs them later" in run.output
            assert re.search(
                r"MLflow at sqlite:\S+ lacks \d+ runs, for which it needs at most \d+\.\d MiB;", run.output
            )
            assert service.numbers() == undisturbed(PROFILE, GRID)
            _, err = service.run("sync", code=3)
            assert len(err.strip().splitlines()) == 1
        service.run("sync")
        with sqlite3.connect(disk.path / "mlflow.db") as connection:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        check_results(service, undisturbed(PROFILE, GRID), _seen([run]))
