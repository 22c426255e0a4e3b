"""What MLflow shows of results that are no longer their cell's, and a mirror that nothing stops."""

import io
from pathlib import Path

import pytest
from cells import STARTED, begin, finish, make_cell
from rich.console import Console

from pld_grid import api, track
from pld_grid.errors import StoreFull
from pld_grid.records import from_store
from pld_grid.store import EpochRecord, Receipt, Store
from pld_grid.track import EXPERIMENT, Mirrorer, Tracker, prepare_database, records
from pld_grid.track.connection import Connection

CELL = make_cell()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow for all tests here: each has an experiment of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    prepare_database(uri)
    return uri


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def other_numbers(receipt: Receipt) -> tuple[EpochRecord, ...]:
    """The epochs of another training of the cell, as on another device."""
    return tuple(
        each.model_copy(
            update={"metrics": {name: value + 10 for name, value in each.metrics.items()}, "time": STARTED + 500}
        )
        for each in receipt.epochs
    )


def test_a_number_that_was_set_aside_is_no_result_in_mlflow_either(
    store: Store, database: str, request: pytest.FixtureRequest
) -> None:
    tracker = Tracker(store, database, request.node.name)
    earlier = finish(store, CELL)
    tracker.sync_all()
    run = tracker.store.mirror(CELL.cell_id)
    assert run is not None
    store.set_cell_aside(CELL.cell_id)
    # Its driver is killed before there is anything of the next training.
    store.write_cell(CELL)
    assert tracker.sync_all() == 1
    assert records(database, request.node.name, [CELL.cell_id]) == from_store(store, [CELL.cell_id]) == {}
    assert tracker.sync_all() == 0
    # All epochs of the next one arrive, the first ones too.
    epochs = other_numbers(earlier)
    begin(store, CELL, 1, records=epochs[:1])
    assert tracker.sync_all() == 1
    finish(store, CELL, epochs=epochs, metrics=epochs[-1].metrics)
    # By another process, which knows only what MLflow has.
    assert Tracker(store, database, request.node.name).sync_all() == 1
    assert records(database, request.node.name, [CELL.cell_id]) == from_store(store, [CELL.cell_id]) != {}
    from mlflow import MlflowClient

    history = MlflowClient(database).get_metric_history(run.run_id, "top1")
    wanted = [(each.epoch, each.metrics["top1"]) for each in (*earlier.epochs, *epochs)]
    assert sorted((each.step, each.value) for each in history) == sorted(wanted)


def test_what_is_made_again_after_damage_arrives_whenever_mlflow_is_back(
    store: Store, database: str, request: pytest.FixtureRequest
) -> None:
    tracker = Tracker(store, database, request.node.name)
    earlier = finish(store, CELL)
    tracker.sync_all()
    store.write(b"other weights", CELL.cell_id, "weights.safetensors")
    store.check_weights(CELL)
    # MLflow is away all the time in which it is trained again.
    epochs = other_numbers(earlier)
    finish(store, CELL, epochs=epochs, metrics=epochs[-1].metrics, weights=b"new weights")
    assert tracker.sync_all() == 1
    assert records(database, request.node.name, [CELL.cell_id]) == from_store(store, [CELL.cell_id])
    assert tracker.sync_all() == 0


def test_an_error_that_nobody_expects_stops_no_mirror(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish(store, CELL)
    mirror, tries, get = Mirrorer(Tracker(store, database)), 0, Connection.get

    def odd(this: Connection) -> object:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise RuntimeError("nobody expects this")
        return get(this)

    monkeypatch.setattr(Connection, "get", odd)
    mirror.start()
    mirror.mark(CELL.cell_id)
    while mirror.pending():
        assert mirror._thread.is_alive()
        mirror._thread.join(0.05)
    assert mirror.close() == 0
    assert tries > 3
    assert list(records(database, EXPERIMENT)) == [CELL.cell_id]
    assert "nobody expects this" in caplog.text


def test_a_full_store_hides_no_other_error(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch, profile: object, grid: object
) -> None:
    del profile
    made = grid("cells: {student: ResNet-50, loss: ce}")  # type: ignore[operator]
    plan = api.plan([made], api.Workspace(str(store.root), database, "full"))

    def full(*_: object) -> None:
        raise StoreFull("no room for how it ended")

    monkeypatch.setattr(track.Tracker, "end_submission", full)
    console = Console(file=io.StringIO())
    workspace = api.Workspace(str(store.root), database, "full")
    with pytest.raises(ZeroDivisionError), api._mirrored([made], plan, store, workspace, console):
        raise ZeroDivisionError
