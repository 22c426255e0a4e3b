"""A store without renames, folders and fresh lists, under runs that are killed and beside each other."""

import random
import time
from pathlib import Path

import pytest
from bucket_store import FOLDER, REGISTERED, register
from chaos import LONG, LONG_PROFILE, Run, Witness
from conftest import Count, Undisturbed, Watch
from early import early
from service import Service


class Remote(Service):
    """A folder whose results go to a bucket."""

    @property
    def store(self) -> str:  # type: ignore[override]
        return "bucket://results/grids/store"


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness")


@pytest.fixture
def service(tmp_path: Path, database: Path, witness: Witness, monkeypatch: pytest.MonkeyPatch) -> Remote:
    (tmp_path / "buckets").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "buckets"))
    register()
    found = Remote(tmp_path / "run", profile=LONG_PROFILE, grid=LONG, database=database)
    found.environment |= early(witness.folder, REGISTERED, after=witness.folder)
    found.environment["PYTHONPATH"] += f":{Path(__file__).parent}"
    found.environment |= {FOLDER: str(tmp_path / "buckets"), "PLD_GRID_STORE": found.store}
    return found


def test_on_an_object_store_drivers_share_and_die_and_nothing_is_lost(
    service: Remote, witness: Witness, undisturbed: Undisturbed, watch: Watch, chance: random.Random, count: Count
) -> None:
    def start(*arguments: str) -> Run:
        return watch(service.start("run", *arguments))

    for drivers in (2, 1):
        receipts, begun = service.receipts(), len(witness.begun())
        killed = [start() for _ in range(drivers)]
        wanted = begun + chance.randint(4, 24)
        killed[0].wait_for(lambda wanted=wanted: len(witness.begun()) >= wanted, within=400)
        time.sleep(chance.uniform(0, 0.3))
        for run in killed:
            run.kill_all()
        count.kill("driver on an object store", drivers)
        assert receipts.items() <= service.receipts().items()
    last, beside = start(), start()
    for run in (last, beside):
        assert run.end(within=600) == 0, run.said
        assert "Traceback" not in run.said
    expected = undisturbed(LONG_PROFILE, LONG)
    assert service.numbers() == expected
    assert service.numbers("mlflow") == expected
