"""A store without renames, folders and fresh lists, under runs that are killed and beside each other."""

import random
import time
from pathlib import Path

import pytest
from bucket_store import FOLDER, REGISTERED, register
from chaos import LONG, LONG_PROFILE, Run, Witness, check_whole
from counting import Count, Undisturbed, Watch
from early import early
from service import Service

from pld_grid.store import Store, claims


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
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        runs.append(watch(service.start("run", *arguments)))
        return runs[-1]

    killed = [start(), start()]
    wanted = chance.randint(4, 40)
    killed[0].wait_for(lambda: len(witness.begun()) >= wanted)
    time.sleep(chance.uniform(0, 0.3))
    for run in killed:
        run.kill_all()
    count.kill("driver on an object store", len(killed))
    receipts = service.receipts()
    last, beside = start(), start()
    for run in (last, beside):
        assert run.end() == 0, run.said
        assert "Traceback" not in run.said
    assert receipts.items() <= service.receipts().items()
    seen = {process for run in runs for process in run.seen}
    check_whole(service, undisturbed(LONG_PROFILE, LONG), seen, apart=True)
    store = Store(service.store)
    logs = {cell_id: [entry.kind for entry in claims.entries(store, cell_id)] for cell_id in store.cell_ids()}
    assert all(log.count("finished") == 1 and log[-1] == "finished" for log in logs.values()), logs

    # A result is moved away object by object: whoever is killed on the way leaves it whole in one of the places.
    cell_id = chance.choice(sorted(logs))
    before = service.receipts()[cell_id]
    run = start("--only", cell_id, "--again")
    aside = f"{cell_id}.replaced-"
    run.wait_for(lambda: any(aside in path.name for path in Path(service.environment[FOLDER]).iterdir()))
    time.sleep(chance.uniform(0, 0.2))
    run.kill_all()
    count.kill("driver that sets a result aside")
    places = [name for name in store.names() if name.startswith(cell_id)]
    assert before in [store.read_model(type(before), place, "receipt.json") for place in places]
    again = start("--only", cell_id, "--again")
    assert again.end() == 0, again.said
    assert service.numbers()[cell_id] == undisturbed(LONG_PROFILE, LONG)[cell_id]
