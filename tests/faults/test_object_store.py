"""Runs that share an object store, which has no renames, no folders and cached listings, and are killed."""

import time
from pathlib import Path

import pytest
from bucket_store import FOLDER, REGISTERED, register
from cli_process import Service
from paths import SUPPORT
from process_kills import LONG, LONG_PROFILE, Recorder, Run, check_results
from startup_code import write_startup_code

from pld_grid.store import Store, claims


class Remote(Service):
    """A service whose store is a bucket."""

    @property
    def store(self) -> str:  # type: ignore[override]
        return "bucket://results/grids/store"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "witness")


@pytest.fixture
def service(tmp_path: Path, database: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Remote:
    (tmp_path / "buckets").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "buckets"))
    register()
    remote = Remote(tmp_path / "run", profile=LONG_PROFILE, grid=LONG, database=database)
    remote.environment |= write_startup_code(recorder.folder, REGISTERED, after=recorder.folder)
    remote.environment["PYTHONPATH"] += f":{SUPPORT}"
    remote.environment |= {FOLDER: str(tmp_path / "buckets"), "PLD_GRID_STORE": remote.store}
    return remote


def test_killed_drivers_on_an_object_store_lose_no_result(service, recorder, undisturbed, watch, chance, count):
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        runs.append(watch(service.start("run", *arguments)))
        return runs[-1]

    killed = [start(), start()]
    wanted = chance.randint(4, 40)
    killed[0].wait_for(lambda: len(recorder.epochs_started()) >= wanted)
    time.sleep(chance.uniform(0, 0.3))
    for run in killed:
        run.kill_all()
    count.kill("driver on an object store", len(killed))
    receipts = service.receipts()
    last, beside = start(), start()
    for run in (last, beside):
        assert run.end() == 0, run.output
        assert "Traceback" not in run.output
    assert receipts.items() <= service.receipts().items()
    seen = {process for run in runs for process in run.started}
    check_results(service, undisturbed(LONG_PROFILE, LONG), seen, apart=True)
    store = Store(service.store)
    logs = {cell_id: [entry.kind for entry in claims.read_log(store, cell_id)] for cell_id in store.cell_ids()}
    assert all(log.count("finished") == 1 and log[-1] == "finished" for log in logs.values()), logs

    # A result is archived object by object. A process that is killed meanwhile leaves it intact in one of the places.
    cell_id = chance.choice(sorted(logs))
    before = service.receipts()[cell_id]
    run = start("--only", cell_id, "--again")
    archived = f"{cell_id}.replaced-"
    run.wait_for(lambda: any(archived in path.name for path in Path(service.environment[FOLDER]).iterdir()))
    time.sleep(chance.uniform(0, 0.2))
    run.kill_all()
    count.kill("driver that archives a result")
    places = [name for name in store.names() if name.startswith(cell_id)]
    assert before in [store.read_model(type(before), place, "receipt.json") for place in places]
    again = start("--only", cell_id, "--again")
    assert again.end() == 0, again.output
    assert service.numbers()[cell_id] == undisturbed(LONG_PROFILE, LONG)[cell_id]
