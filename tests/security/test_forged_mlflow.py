"""Whoever writes into MLflow, or answers in its place, has no file of ours written and no command end in a traceback.

What is no run of ours is none; what cannot be read at all is one line.
"""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cells import finish, make_cell
from service import Service

from pld_grid import api
from pld_grid.errors import TrackingError
from pld_grid.records import from_store
from pld_grid.store import Receipt, Store
from pld_grid.track import EXPERIMENT, Tracker, records
from pld_grid.track.content import CELL_ID, LOGGED, PREFIX, RECEIPT, STATE, artifacts, tags

CELL = make_cell(seed=1)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of one finished cell and the database that mirrors it."""
    folder = tmp_path_factory.mktemp("mirrored")
    store = Store(folder / "store")
    finish(store, CELL)
    Tracker(store, f"sqlite:///{folder / 'mlflow.db'}").sync_all()
    return folder


@pytest.fixture
def folder(mirrored: Path, tmp_path: Path) -> Path:
    """A copy of it."""
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


# -- a database ------------------------------------------------------------------------------------------------------

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
def test_a_run_whose_tags_are_no_record_is_none_of_ours(folder: Path, name: str) -> None:
    uri, (key, value) = f"sqlite:///{folder / 'mlflow.db'}", TAGS[name]
    assert list(records(uri)) == [CELL.cell_id]
    _change(folder / "mlflow.db", TAG, value, key)
    assert records(uri) == {}
    Tracker(Store(folder / "store"), uri).sync_all()


@pytest.mark.parametrize("missing", ["reason", "epoch", "metrics", "parameters", "commit", "state"])
def test_nor_is_one_without_a_tag(folder: Path, missing: str) -> None:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    _change(folder / "mlflow.db", "DELETE FROM tags WHERE key = ?", f"{PREFIX}{missing}")
    assert records(uri) == {}
    Tracker(Store(folder / "store"), uri).sync_all()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_whose_files_lie_nowhere_has_a_record_without_epochs(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri, store = f"sqlite:///{folder / 'mlflow.db'}", Store(folder / "store")
    _change(folder / "mlflow.db", *RUNS[name])
    found = records(uri)[CELL.cell_id]
    known = from_store(store, [CELL.cell_id])[CELL.cell_id]
    assert (found.metrics, found.epochs, found.provenance) == (known.metrics, (), None)
    assert "1 of 1 finished runs have no receipt.json, or a wrong one" in caplog.text
    Tracker(store, uri).sync_all()


@pytest.mark.parametrize("logged", ["x", b"\xff", "", None, "9" * 4500])
def test_where_nothing_says_how_far_the_epochs_go_they_are_logged_again(folder: Path, logged: object) -> None:
    uri, store = f"sqlite:///{folder / 'mlflow.db'}", Store(folder / "store")
    _change(folder / "mlflow.db", TAG, logged, LOGGED)
    Tracker(store, uri).sync(CELL.cell_id)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        found = connection.execute("SELECT value FROM tags WHERE key = ?", [LOGGED]).fetchall()
    assert found == [(str(CELL.epochs),)]


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
def test_a_database_that_no_mlflow_wrote_ends_in_no_traceback(folder: Path, change: str) -> None:
    uri, store = f"sqlite:///{folder / 'mlflow.db'}", Store(folder / "store")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(change)
    for use in (lambda: records(uri), Tracker(store, uri).sync_all, lambda: Tracker(store, uri).sync(CELL.cell_id)):
        _one_line_at_most(use)


def _one_line_at_most(use: Callable[[], object]) -> None:
    try:
        use()
    except TrackingError as refused:
        assert len(str(refused)) < 1000


def test_the_command_line_reports_what_is_left(tmp_path: Path) -> None:
    service = Service(tmp_path / "work")
    store = Store(service.store)
    grid = api.load_grid(service.folder / "losses.yaml", str(service.folder / "tiny.yaml"))
    cells = {cell.cell_id: cell for cell in grid.cells()}
    forged = dict(zip(cells, TAGS.values(), strict=False))
    assert len(forged) == len(cells) == 9
    for cell in cells.values():
        finish(store, cell)
    service.run("sync")
    for cell_id, (key, value) in forged.items():
        of_cell = "AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
        _change(service.folder / ".pld_grid" / "mlflow.db", f"{TAG} {of_cell}", value, key, CELL_ID, cell_id)
    service.run("report", "--from", "mlflow", "--out", "mine")
    header, *found = (service.folder / "mine" / "records.jsonl").read_text().splitlines()
    assert '"profile":"tiny"' in header
    assert found == []
    service.run("sync")


# -- whoever answers as MLflow ---------------------------------------------------------------------------------------


class Impostor:
    """Answers as an MLflow of one run, or with anything at all."""

    def __init__(self, receipt: Receipt) -> None:
        self.run_id = "0" * 32
        self.tags: dict[str, str] = {}
        self.answer: bytes | None = None
        self.receipt = artifacts(receipt)["receipt.json"]
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                data = impostor.said(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_PATCH = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def said(self, path: str) -> bytes:
        if self.answer is not None:
            return self.answer
        if "mlflow-artifacts/artifacts/" in path:
            return self.receipt
        if "mlflow-artifacts/artifacts" in path:
            return b'{"files": []}'
        info = {
            "run_id": self.run_id, "run_uuid": self.run_id, "experiment_id": "1", "status": "FINISHED",
            "start_time": 1, "artifact_uri": f"mlflow-artifacts:/1/{'0' * 32}/artifacts", "lifecycle_stage": "active",
        }  # fmt: skip
        run = {"info": info, "data": {"tags": [{"key": k, "value": v} for k, v in self.tags.items()]}}
        experiment = {"experiment_id": "1", "name": EXPERIMENT, "lifecycle_stage": "active"}
        return json.dumps({"experiment": experiment, "run": run, "runs": [run], "experiments": [experiment]}).encode()


@pytest.fixture
def impostor(folder: Path) -> Iterator[Impostor]:
    progress = Store(folder / "store").progress(CELL.cell_id)
    assert progress is not None
    assert progress.receipt is not None
    found = Impostor(progress.receipt)
    found.tags = {**tags(CELL, progress), LOGGED: str(CELL.epochs)}
    yield found
    found.server.shutdown()
    found.server.server_close()


def _everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("run_id", ["{folder}/store/0123456789abcdef", "../../../escaped", "../escaped", "a/b", "."])
def test_a_runs_name_leads_nowhere(
    folder: Path, impostor: Impostor, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "tmp"))
    before = _everything(folder)
    impostor.run_id = run_id.format(folder=folder)
    found = records(impostor.uri)[CELL.cell_id]
    # It was fetched, and is what the tags say.
    assert len(found.epochs) == CELL.epochs
    assert _everything(folder) == before


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"null", b"5", b"[]", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"experiment": 5}',
        b'{"experiment": []}',
        b'{"experiment": {"experiment_id": {}}}', b'{"experiment": {"lifecycle_stage": 7, "experiment_id": "1"}}',
        b'{"experiment": {"experiment_id": "1"}, "runs": 5, "run": 5, "experiments": 5}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [5], "run": [5], "experiments": [5]}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"info": null}], "run": {}, "run_id": 5}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"info": {"start_time": "x"}}]}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"data": {"tags": [{"key": 5, "value": []}]}}]}',
        b'{"experiment": {"experiment_id": "1"}, "runs": [{"data": {"tags": [{"key": "\\ud800", "value": ""}]}}]}',
        b'{"experiment": {"experiment_id": 1e999}}',
    ],
    ids=range(19),
)  # fmt: skip
def test_an_answer_that_is_none_ends_in_no_traceback(folder: Path, impostor: Impostor, answer: bytes) -> None:
    impostor.answer = answer
    store = Store(folder / "store")
    _one_line_at_most(lambda: records(impostor.uri))
    with pytest.raises(TrackingError) as refused:
        Tracker(store, impostor.uri).sync(CELL.cell_id)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [{STATE: "\ud800"}, {f"{PREFIX}reason": "\ud800"}, {f"{PREFIX}metrics": "{"}, {LOGGED: "x"}, {RECEIPT: "\udfff"}],
    ids=repr,
)
def test_tags_of_an_impostor_are_read_or_refused(folder: Path, impostor: Impostor, changes: dict[str, str]) -> None:
    impostor.tags |= changes
    _one_line_at_most(lambda: records(impostor.uri))
    _one_line_at_most(lambda: Tracker(Store(folder / "store"), impostor.uri).sync(CELL.cell_id))
