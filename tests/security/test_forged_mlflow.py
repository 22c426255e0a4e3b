"""Forged content of an MLflow database, or a forged server, writes no file and causes no traceback.

Foreign runs are ignored; what cannot be read at all is reported in one line.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cells import finish, make_cell
from cli_process import Service
from loopback_server import QuietHandler, serve

from pld_grid.store import Receipt, Store
from pld_grid.track.mirrored_records import load_records
from pld_grid.track.run_content import CELL_ID, LOGGED, PREFIX, RECEIPT, STATE, make_artifacts, make_tags
from pld_grid.track.tracker import Tracker
from pld_grid.track.tracking_uri import EXPERIMENT
from pld_grid.util.errors import TrackingError

pytestmark = pytest.mark.slow

CELL = make_cell(seed=1)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of one finished cell and the database that mirrors it."""
    folder = tmp_path_factory.mktemp("mirrored")
    store = Store(folder / "store")
    finish(store, CELL)
    Tracker(store, f"sqlite:///{folder / 'mlflow.db'}").sync_all()
    return folder


@pytest.fixture
def folder(mirrored: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder."""
    shutil.copytree(mirrored / "store", tmp_path / "store")
    with (
        closing(sqlite3.connect(mirrored / "mlflow.db")) as source,
        closing(sqlite3.connect(tmp_path / "mlflow.db")) as to,
    ):
        source.backup(to)
    return tmp_path


def _change(database: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


# -- forged databases ------------------------------------------------------------------------------------------------

TAG = "UPDATE tags SET value = ? WHERE key = ?"
TAGS: dict[str, tuple[str, object]] = {
    "epoch": (f"{PREFIX}epoch", "x"),
    "endless epoch": (f"{PREFIX}epoch", "9" * 4500),
    "parameters": (f"{PREFIX}parameters", "x"),
    "half an object": (f"{PREFIX}metrics", "{"),
    "open lists": (f"{PREFIX}metrics", "[" * 4000),
    "list": (f"{PREFIX}metrics", "[]"),
    "text for a number": (f"{PREFIX}metrics", '{"top1": "71"}'),
    "no number": (f"{PREFIX}metrics", '{"top1": NaN}'),
    "infinite": (f"{PREFIX}metrics", '{"top1": 1e999}'),
    "bytes": (f"{PREFIX}metrics", b"\xff"),
    "nothing": (f"{PREFIX}metrics", None),
    "state": (STATE, "won"),
    "bytes for a state": (STATE, b"finished"),
}
RUNS: dict[str, tuple[str, object]] = {
    "no host": ("UPDATE runs SET artifact_uri = ?", "file://[::1"),
    "no path": ("UPDATE runs SET artifact_uri = ?", "file:///a%00b"),
    "device": ("UPDATE runs SET artifact_uri = ?", "file:///dev/zero"),
    "no kind": ("UPDATE runs SET artifact_uri = ?", "nosuch://x"),
    "other receipt": (f"UPDATE tags SET value = ? WHERE key = '{RECEIPT}'", "0" * 64),
}


@pytest.mark.parametrize("name", TAGS)
def test_load_records_invalid_tags_are_ignored(folder, name):
    uri, (key, value) = f"sqlite:///{folder / 'mlflow.db'}", TAGS[name]
    assert list(load_records(uri)) == [CELL.cell_id]
    _change(folder / "mlflow.db", TAG, value, key)
    assert load_records(uri) == {}
    Tracker(Store(folder / "store"), uri).sync_all()


@pytest.mark.parametrize("missing", ["reason", "epoch", "metrics", "parameters", "commit", "state"])
def test_load_records_missing_tag_is_ignored(folder, missing):
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    _change(folder / "mlflow.db", "DELETE FROM tags WHERE key = ?", f"{PREFIX}{missing}")
    assert load_records(uri) == {}
    Tracker(Store(folder / "store"), uri).sync_all()


@pytest.mark.parametrize("name", RUNS)
def test_load_records_forged_artifacts_have_no_epochs(folder, name, caplog):
    uri, store = f"sqlite:///{folder / 'mlflow.db'}", Store(folder / "store")
    _change(folder / "mlflow.db", *RUNS[name])
    record = load_records(uri)[CELL.cell_id]
    known = store.report_records([CELL.cell_id])[CELL.cell_id]
    assert (record.metrics, record.epochs, record.provenance) == (known.metrics, (), None)
    assert "1 of 1 finished runs have no receipt.json, or a wrong one" in caplog.text
    Tracker(store, uri).sync_all()


@pytest.mark.parametrize("logged", ["x", b"\xff", "", None, "9" * 4500])
def test_sync_invalid_logged_epoch_logs_all_epochs(folder, logged):
    uri, store = f"sqlite:///{folder / 'mlflow.db'}", Store(folder / "store")
    _change(folder / "mlflow.db", TAG, logged, LOGGED)
    Tracker(store, uri).sync(CELL.cell_id)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        values = connection.execute("SELECT value FROM tags WHERE key = ?", [LOGGED]).fetchall()
    assert values == [(str(CELL.epochs),)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET start_time = 'x'",
        "UPDATE runs SET start_time = NULL",
        "UPDATE runs SET artifact_uri = NULL",
        "UPDATE runs SET artifact_uri = X'ff'",
        "UPDATE runs SET status = 'won'",
        "UPDATE runs SET lifecycle_stage = 'won'",
        "UPDATE runs SET run_uuid = X'ff'",
        "UPDATE metrics SET value = 'x'",
        "UPDATE metrics SET timestamp = 'x'",
        "UPDATE params SET value = X'ff'",
        "UPDATE tags SET value = CAST(X'ff' AS TEXT)",
        "UPDATE tags SET value = NULL",
        "UPDATE experiments SET name = X'ff' WHERE experiment_id > 0",
        "UPDATE experiments SET lifecycle_stage = 'won'",
        "UPDATE experiments SET artifact_location = NULL",
        "DROP TABLE runs",
        "UPDATE alembic_version SET version_num = X'ff'",
    ],
)
def test_forged_database_raises_one_line_at_most(folder, change):
    uri, store = f"sqlite:///{folder / 'mlflow.db'}", Store(folder / "store")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(change)
    for use in (
        lambda: load_records(uri),
        Tracker(store, uri).sync_all,
        lambda: Tracker(store, uri).sync(CELL.cell_id),
    ):
        _assert_one_line_at_most(use)


def _assert_one_line_at_most(use: Callable[[], object]) -> None:
    try:
        use()
    except TrackingError as refused:
        assert len(str(refused)) < 1000


def test_report_forged_tags_reports_the_rest(tmp_path):
    service = Service(tmp_path / "work")
    store = Store(service.store)
    cells = {cell.cell_id: cell for cell in service.load_grid().cells()}
    forged = dict(zip(cells, TAGS.values(), strict=False))
    assert len(forged) == len(cells) == 9
    for cell in cells.values():
        finish(store, cell)
    service.run("sync")
    for cell_id, (key, value) in forged.items():
        of_cell = "AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
        _change(service.folder / ".pld_grid" / "mlflow.db", f"{TAG} {of_cell}", value, key, CELL_ID, cell_id)
    service.run("report", "--from", "mlflow", "--out", "mine")
    header, *records = (service.folder / "mine" / "records.jsonl").read_text().splitlines()
    assert '"profile":"tiny"' in header
    assert records == []
    service.run("sync")


# -- forged servers --------------------------------------------------------------------------------------------------


class ForgedServer:
    """Answers like an MLflow with one run, or with fixed bytes."""

    uri = ""

    def __init__(self, receipt: Receipt) -> None:
        self.run_id = "0" * 32
        self.tags: dict[str, str] = {}
        self.answer: bytes | None = None
        self.receipt = make_artifacts(receipt)["receipt.json"]

    def make_answer(self, path: str) -> bytes:
        if self.answer is not None:
            return self.answer
        if "mlflow-artifacts/artifacts/" in path:
            return self.receipt
        if "mlflow-artifacts/artifacts" in path:
            return b'{"files": []}'
        info = {
            "run_id": self.run_id,
            "run_uuid": self.run_id,
            "experiment_id": "1",
            "status": "FINISHED",
            "start_time": 1,
            "artifact_uri": f"mlflow-artifacts:/1/{'0' * 32}/artifacts",
            "lifecycle_stage": "active",
        }
        run = {"info": info, "data": {"tags": [{"key": k, "value": v} for k, v in self.tags.items()]}}
        experiment = {"experiment_id": "1", "name": EXPERIMENT, "lifecycle_stage": "active"}
        return json.dumps({"experiment": experiment, "run": run, "runs": [run], "experiments": [experiment]}).encode()


@pytest.fixture
def forged_server(folder: Path) -> Iterator[ForgedServer]:
    progress = Store(folder / "store").record(CELL.cell_id)
    forged = ForgedServer(progress.receipt)
    forged.tags = {**make_tags(CELL, progress), LOGGED: str(CELL.epochs)}

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.read_body()
            self.send(forged.make_answer(self.path))

        do_POST = do_PATCH = do_PUT = do_GET

    with serve(Handler) as forged.uri:
        yield forged


def _read_all_files(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("run_id", ["{folder}/store/0123456789abcdef", "../../../escaped", "../escaped", "a/b", "."])
def test_load_records_forged_run_id_writes_no_file(folder, forged_server, run_id, monkeypatch):
    (folder / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "tmp"))
    before = _read_all_files(folder)
    forged_server.run_id = run_id.format(folder=folder)
    record = load_records(forged_server.uri)[CELL.cell_id]
    # The receipt was downloaded, and it has the digest in the tags.
    assert len(record.epochs) == CELL.epochs
    assert _read_all_files(folder) == before


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"5",
        b"[]",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"experiment": 5}',
        b'{"experiment": []}',
        b'{"experiment": {"experiment_id": {}}}',
        b'{"experiment": {"lifecycle_stage": 7, "experiment_id": "1"}}',
        b'{"experiment": {"experiment_id": "1"}, "runs": 5, "run": 5, "experiments": 5}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [5], "run": [5], "experiments": [5]}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"info": null}], "run": {}, "run_id": 5}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"info": {"start_time": "x"}}]}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"data": {"tags": [{"key": 5, "value": []}]}}]}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"data": {"tags": [{"key": "\\ud800", "value": ""}]}}]}',
        b'{"experiment": {"experiment_id": 1e999}}',
    ],
    ids=range(19),
)
def test_forged_answer_raises_one_line(folder, forged_server, answer):
    forged_server.answer = answer
    _assert_one_line_at_most(lambda: load_records(forged_server.uri))
    with pytest.raises(TrackingError) as refused:
        Tracker(Store(folder / "store"), forged_server.uri).sync(CELL.cell_id)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [{STATE: "\ud800"}, {f"{PREFIX}reason": "\ud800"}, {f"{PREFIX}metrics": "{"}, {LOGGED: "x"}, {RECEIPT: "\udfff"}],
    ids=repr,
)
def test_forged_tags_raise_one_line_at_most(folder, forged_server, changes):
    forged_server.tags |= changes
    _assert_one_line_at_most(lambda: load_records(forged_server.uri))
    _assert_one_line_at_most(lambda: Tracker(Store(folder / "store"), forged_server.uri).sync(CELL.cell_id))
