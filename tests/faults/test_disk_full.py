"""Full disks, each a real one: under the store, in Ray's temporary folder, under MLflow's database."""

import random
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from chaos import Run, check_whole
from counting import Count, Undisturbed
from service import GRID, PROFILE, Service, contents
from small_disk import KIB, MIB, SmallDisk, small_disk

from pld_grid.store import Store

# What `run` says beforehand, and while it runs.
LACK = r"error: .*about \d+\.\d MiB needed.*, \d+\.\d MiB free; free some, or name another place \((?P<choice>[\w-]+)\)"
FULL = (
    r"error: store (?P<store>\S+): cannot write \S+ \(\d+\.\d MiB\): No space left on device; "
    r"\d+\.\d MiB are free; what is in it is whole, and the same command goes on from there"
)


@pytest.fixture
def ray_disk() -> Iterator[SmallDisk]:
    """A disk for Ray, whose sockets must have short paths."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, small_disk(Path(folder, "d"), 40 * MIB) as disk:
        yield disk


def _seen(runs: Iterable[Run]) -> list[psutil.Process]:
    return [process for run in runs for process in run.seen]


def _written(folder: Path, number: int) -> Callable[[], bool]:
    """Tells whether so many new files were seen in the cells of a store, though some may be gone again."""
    before, seen = set(folder.glob("*/**/*.*")), set[Path]()

    def look() -> bool:
        with suppress(FileNotFoundError):
            seen.update(path for path in folder.glob("*/**/*.*") if path not in before)
        return len(seen) >= number

    return look


def _last_line(err: str) -> str:
    return err.strip().splitlines()[-1]


def _check_nothing_half_written_counts(store: Store) -> None:
    """Every receipt and what it names is whole, no checkpoint loads that is not, and nothing else was left."""
    for cell_id in store.cell_ids():
        receipt, cell = store.receipt(cell_id), store.cell(cell_id)
        if receipt is not None:
            assert store.has_weights(receipt)
        elif cell is not None:
            # It checks the checksum; what it does not take, it sets aside.
            store.load_checkpoint(cell)
    assert list(Path(store.root).rglob("*.tmp")) == []
    # Writes that fail leave the file that was there before, or none.
    assert list(Path(store.root).rglob("damaged/*")) == []


def test_a_full_store_stops_the_run_and_loses_nothing(
    tmp_path: Path, database: Path, undisturbed: Undisturbed, count: Count, chance: random.Random
) -> None:
    service = Service(tmp_path, database=database)
    store, runs = Store(service.store), list[Run]()
    with small_disk(service.store, 40 * MIB) as disk:
        for _ in range(2):
            # At any moment: while checkpoints, weights, receipts, claims or leases are written.
            written = _written(service.store, chance.randint(1, 12))
            finished = {path: path.read_bytes() for path in service.store.rglob("receipt.json")}
            run = Run(service.start("run"))
            runs.append(run)
            run.wait_for(written)
            with disk.full(leave=chance.randrange(0, 600 * KIB)):
                assert run.end() == 2, run.said
                count("store full")
                assert re.fullmatch(FULL, _last_line(run.said)), run.said
                assert "Traceback" not in run.said
                _check_nothing_half_written_counts(store)
                # Nothing was trained for nothing, and nothing that was finished was touched.
                assert {path: path.read_bytes() for path in finished} == finished
                # While it is full, the run is not even begun.
                here = contents(service.store)
                _, err = service.run("run", code=2)
                assert re.fullmatch(LACK, _last_line(err)), err
                assert contents(service.store) == here
        last = Run(service.start("run"))
        runs.append(last)
        assert last.end() == 0, last.said
        check_whole(service, undisturbed(PROFILE, GRID), _seen(runs))


def test_what_is_said_to_be_needed_is_enough(
    tmp_path: Path, database: Path, undisturbed: Undisturbed, ray_disk: SmallDisk
) -> None:
    service = Service(tmp_path)
    service.environment["RAY_TMPDIR"] = str(ray_disk.path)
    with ExitStack() as stack:
        mlflow = stack.enter_context(small_disk(service.folder / ".pld_grid", MIB))
        store = stack.enter_context(small_disk(service.store, MIB))
        shutil.copy(database, mlflow.path / "mlflow.db")
        with ray_disk.full(leave=MIB):
            here = contents(mlflow.path)
            _, err = service.run("run", code=2)
            # All that is lacking at once.
            told = re.findall(r"(store|MLflow|Ray) \S+: about (\d+\.\d) MiB needed", _last_line(err))
            assert [kind for kind, _ in told] == ["store", "MLflow", "Ray"], err
            assert contents(mlflow.path) == here
            assert [path.name for path in ray_disk.path.iterdir()] == ["filler"]
        needed = {kind: int((float(size) + 0.1) * MIB) for kind, size in told}
        mlflow.resize(needed["MLflow"] + len(here["mlflow.db"]))
        store.resize(needed["store"])
        with ray_disk.full(leave=needed["Ray"]):
            service.run("run")
        assert service.numbers() == undisturbed(PROFILE, GRID)
        assert service.numbers("mlflow") == undisturbed(PROFILE, GRID)


def test_a_full_disk_of_rays_is_said(
    tmp_path: Path, database: Path, undisturbed: Undisturbed, ray_disk: SmallDisk, count: Count
) -> None:
    service = Service(tmp_path, database=database)
    service.environment["RAY_TMPDIR"] = str(ray_disk.path)
    runs = [Run(service.start("run"))]
    # In the first of two waves: what runs goes on, another wave cannot begin.
    runs[0].wait_for(lambda: list(service.store.glob("*/cell.json")))
    with ray_disk.full():
        assert runs[0].end() == 2, runs[0].said
        count("Ray's temporary folder full")
    assert "Traceback" not in runs[0].said
    assert re.search(r"Ray's temporary folder is full \(.+\); free about \d+ MiB", _last_line(runs[0].said))
    runs.append(Run(service.start("run")))
    assert runs[1].end() == 0, runs[1].said
    check_whole(service, undisturbed(PROFILE, GRID), _seen(runs))


def test_a_full_disk_of_mlflows_does_not_stop_training(
    tmp_path: Path, database: Path, undisturbed: Undisturbed, count: Count, chance: random.Random
) -> None:
    service = Service(tmp_path)
    with small_disk(service.folder / ".pld_grid", 40 * MIB) as disk, small_disk(service.store, 40 * MIB):
        shutil.copy(database, disk.path / "mlflow.db")
        run = Run(service.start("run"))
        mirrored = chance.randint(0, 1)
        run.wait_for(lambda: len(list(disk.path.glob("mlartifacts/*"))) >= mirrored)
        with disk.full(leave=chance.randrange(0, 200 * KIB)):
            assert run.end() == 0, run.said
            count("MLflow's disk full")
            assert "9 cells trained" in run.said
            assert "Traceback" not in run.said
            told = [line for line in run.said.splitlines() if "disk is full" in line or "No space left" in line]
            assert len(told) == 1, run.said
            assert "training goes on" in told[0]
            assert "`pld-grid sync` logs them later" in run.said
            assert re.search(r"MLflow at sqlite:\S+ lacks \d+ runs, for which it needs about \d+\.\d MiB;", run.said)
            assert service.numbers() == undisturbed(PROFILE, GRID)
            _, err = service.run("sync", code=3)
            assert len(err.strip().splitlines()) == 1
        service.run("sync")
        with sqlite3.connect(disk.path / "mlflow.db") as connection:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        check_whole(service, undisturbed(PROFILE, GRID), _seen([run]))
