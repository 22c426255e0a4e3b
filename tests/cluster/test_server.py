"""An `mlflow server` on PostgreSQL with passwords: concurrent processes, refusals, and no secret in any file."""

import base64
import itertools
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_process import Service, contents, rest, start_cli, wait_for
from mlflow_servers import ADMIN, USER, ProtectedServer
from ports import free_port
from postgres_server import ROLE, Postgres

pytestmark = pytest.mark.ray

GRID = """
cells: {teacher: big, student: small, epochs: 3, loss: [ce, kd, pld]}
table:
  rows: [loss]
  columns: [{header: Loss, axis: loss}, {header: Top-1, metric: top1}]
"""
CELLS = 4  # with the teacher
EPOCHS = 2 + 3 * 3
REFUSED = "401: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user and password that it knows"


class Client(Service):
    """`pld-grid` on a machine whose environment names the server; its output is also kept in files."""

    def __init__(self, folder: Path, ray: Path, environment: dict[str, str], *, grid: str = GRID) -> None:
        super().__init__(folder, grid=grid)
        self.environment |= {"RAY_TMPDIR": str(ray)} | environment
        self._numbers = itertools.count()

    def finish(self, process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
        out, err = super().finish(process, code)
        (self.folder / f"output-{next(self._numbers)}").write_text(out + err)
        return out, err

    def reports(self, *arguments: str) -> list[dict[str, bytes]]:
        """Return the same report from the store and from MLflow: files by name."""
        for source in ("store", "mlflow"):
            self.run("report", "--from", source, "--out", f"report-{source}", *arguments)
        return [contents(self.folder / f"report-{source}") for source in ("store", "mlflow")]


@pytest.fixture(scope="module")
def ray() -> Iterator[Path]:
    """Where Ray keeps its logs; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="pldray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, ray: Path, mlflow_server: ProtectedServer) -> Client:
    """A client whose grid was trained and mirrored to the server."""
    client = Client(tmp_path_factory.mktemp("client"), ray, mlflow_server.client_environment)
    _, err = client.run("run")
    assert f"{CELLS} cells trained" in err
    assert "MLflow" not in err
    return client


def _runs(postgres: Postgres, server: ProtectedServer, experiment: str) -> list[list[str]]:
    """PostgreSQL's rows: state, and cell or submission id, of all runs of an experiment."""
    return postgres.query(
        server.name,
        "SELECT r.run_uuid, r.status, r.lifecycle_stage, t.value FROM runs r JOIN experiments e USING (experiment_id) "
        "JOIN tags t USING (run_uuid) WHERE t.key IN ('pld_grid.cell_id', 'pld_grid.submission_id') "
        f"AND e.name = '{experiment}'",
    )


def _metrics(postgres: Postgres, server: ProtectedServer, experiment: str) -> Counter[tuple[str, ...]]:
    """How often each (run, metric, step) was logged."""
    sql = "SELECT m.run_uuid, m.key, m.step FROM metrics m JOIN runs r USING (run_uuid) JOIN experiments e USING "
    return Counter(map(tuple, postgres.query(server.name, f"{sql} (experiment_id) WHERE e.name = '{experiment}'")))


def test_run_is_logged_and_its_tables_can_be_made_from_the_server(client, mlflow_server, postgres):
    runs = _runs(postgres, mlflow_server, "pld_grid")
    assert Counter(tuple(run[1:3]) for run in runs) == {("FINISHED", "active"): CELLS + 1}
    counted = _metrics(postgres, mlflow_server, "pld_grid")
    assert set(counted.values()) == {1}
    assert sum(key == "top1" for _, key, _ in counted) == EPOCHS
    kept = {path.name for path in mlflow_server.artifacts.rglob("*.*")}
    assert kept == {"cell.yaml", "receipt.json", "weights.safetensors"}
    from_store, from_mlflow = client.reports()
    assert from_store == from_mlflow
    assert from_store["losses.csv"].count(b"\n") == 4
    assert client.run("sync")[0] == "MLflow is up to date\n"


def test_eight_concurrent_runs_log_everything_once(tmp_path, client, ray, mlflow_server, postgres):
    # Six want what is finished but in no run of this experiment yet, two train, and all share cells.
    shared = Client(tmp_path, ray, mlflow_server.client_environment)
    shutil.copytree(client.store, shared.store, ignore=shutil.ignore_patterns("mirror.json", "submissions", ".locks"))
    losses = ["ce", "kd", "pld", "ce, kd", "ce, pld", "kd, pld"]
    wanted = [f"{{teacher: big, student: small, epochs: 3, loss: [{each}]}}" for each in losses]
    wanted += [f"{{student: small, epochs: 3, loss: ce, seed: [{seeds}]}}" for seeds in ("0, 1, 2", "0, 2, 3")]
    names = [f"grid{number}.yaml" for number in range(len(wanted))]
    for name, cells in zip(names, wanted, strict=True):
        (tmp_path / name).write_text(f"cells: {cells}\n")
    settings = ["--profile", "tiny.yaml", "--experiment", "eight"]
    processes = [start_cli(tmp_path, shared.environment, "run", name, *settings) for name in names]
    errors = [shared.finish(process)[1] for process in processes]
    assert sum("Nothing to train" in err for err in errors) == 6
    assert not [err for err in errors if "Traceback" in err]
    # A run waits half a minute for the server, not longer: what is left on a busy machine is logged now.
    shared.run("sync", "--experiment", "eight")

    runs = _runs(postgres, mlflow_server, "eight")
    assert Counter(tuple(run[1:3]) for run in runs) == {("FINISHED", "active"): CELLS + 3 + 8}
    assert max(Counter(run[3] for run in runs).values()) == 1
    counted = _metrics(postgres, mlflow_server, "eight")
    assert set(counted.values()) == {1}
    assert sum(key == "top1" for _, key, _ in counted) == EPOCHS + 3 * 3
    assert postgres.query(mlflow_server.name, "SELECT count(*) FROM experiments WHERE name = 'eight'") == [["1"]]
    sql = "SELECT value FROM tags JOIN runs USING (run_uuid) JOIN experiments e USING (experiment_id) "
    sql += "WHERE key = 'pld_grid.grids' AND e.name = 'eight'"
    grids = Counter(value for (value,) in postgres.query(mlflow_server.name, sql))
    assert grids == Counter(
        [
            *(f"grid{number}" for number in range(8)),  # the submissions
            "grid1,grid2,grid3,grid4,grid5",  # the teacher
            "grid0,grid3,grid4,grid6,grid7",
            "grid1,grid3,grid5",
            "grid2,grid4,grid5",  # ce, kd and pld
            "grid6",
            "grid6,grid7",
            "grid7",  # seeds 1, 2 and 3
        ]
    )
    assert shared.run("sync", "--experiment", "eight")[0] == "MLflow is up to date\n"
    from_store, from_mlflow = shared.reports(*names, "--experiment", "eight")
    assert from_store == from_mlflow
    assert len([name for name in from_store if name.endswith(".csv") and "/" not in name]) == 8 + 2


@pytest.mark.parametrize(
    ("changed", "host", "message"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "not-the-password"}, "127.0.0.1", REFUSED),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "127.0.0.1", REFUSED),
        ({}, "localhost", "403: it does not go by the name {0}; start it with --allowed-hosts {0}"),
    ],
)
def test_refused_client_gets_advice(tmp_path, ray, mlflow_server, changed, host, message):
    name = f"{host}:{mlflow_server.port}"
    refused = Client(tmp_path, ray, mlflow_server.client_environment | changed)
    where = ("--tracking-uri", f"http://{name}")
    assert refused.run("sync", *where, code=3) == ("", f"error: MLflow at http://{name}: {message.format(name)}\n")


def test_run_with_a_wrong_password_trains_without_mlflow(tmp_path, ray, mlflow_server):
    environment = mlflow_server.client_environment | {"MLFLOW_TRACKING_PASSWORD": "not-the-password"}
    refused = Client(tmp_path, ray, environment, grid="cells: {student: small, epochs: 1, loss: ce}")
    _, err = refused.run("run")
    assert "1 cells trained" in err
    assert err.count(REFUSED) == 1
    assert "training goes on" in err
    assert f"MLflow at {mlflow_server.uri} lacks 2 runs; they are kept in the store" in err
    refused.environment |= mlflow_server.client_environment
    assert refused.run("sync", "--experiment", "refused")[0] == "2 runs brought up to date\n"


def test_run_of_a_read_only_user_warns_once(tmp_path, client, ray, mlflow_server):
    known = {"username": "guest", "password": "guest-of-the-lab"}
    mlflow_server.ask("users/create", known, user=ADMIN, password=mlflow_server.admin_password)
    credentials = {"MLFLOW_TRACKING_USERNAME": "guest", "MLFLOW_TRACKING_PASSWORD": known["password"]}
    guest = Client(tmp_path, ray, mlflow_server.client_environment | credentials)
    shutil.copytree(client.store, guest.store)
    from_store, from_mlflow = guest.reports()
    assert from_store == from_mlflow
    # What is finished belongs to one more grid now, which is a new run and a tag of old ones.
    (guest.folder / "another.yaml").write_text("cells: {student: small, epochs: 3, loss: ce}\n")
    _, err = guest.run("run", "another.yaml")
    assert "Nothing to train" in err
    assert err.count("403: this user may not; an administrator of it can permit EDIT on the experiment") == 1
    assert "runs; they are kept in the store" in err


def test_eight_concurrent_processes_create_one_schema(tmp_path, ray, postgres):
    uri = postgres.create("raced")
    racer = Client(tmp_path, ray, {"MLFLOW_TRACKING_URI": uri, "PGPASSWORD": postgres.password})
    # Commands that mirror to a database without a server create the schema too.
    upgrades = [racer.start("db", "upgrade") for _ in range(3)]
    upgrades += [racer.start("db", "upgrade", "--tracking-uri", postgres.uri("raced", postgres.password))]
    syncs = [racer.start("sync") for _ in range(4)]
    outputs = [racer.finish(process) for process in upgrades]
    assert [racer.finish(process) for process in syncs] == [("MLflow is up to date\n", "")] * 4
    assert [err for _, err in outputs] == [""] * 4
    ((revision,),) = postgres.query("raced", "SELECT version_num FROM alembic_version")
    lines = {f"{uri.replace(f'{ROLE}@', '')}: schema {done} (revision {revision})\n" for done in ("made", "up to date")}
    assert {out for out, _ in outputs} <= lines
    assert postgres.query("raced", "SELECT name FROM experiments ORDER BY 1") == [["Default"], ["pld_grid"]]
    assert racer.run("db", "upgrade")[0] in lines


def test_schema_after_a_killed_upgrade_is_completed_by_the_next(tmp_path, ray, postgres):
    uri = postgres.create("killed")
    maker = Client(tmp_path, ray, {"MLFLOW_BACKEND_STORE_URI": uri, "PGPASSWORD": postgres.password})
    process = maker.start("db", "upgrade")
    wait_for(process, lambda: postgres.query("killed", "SELECT 1 FROM pg_tables WHERE tablename = 'experiments'"))
    process.kill()
    rest(process)
    assert "schema made (revision " in maker.run("db", "upgrade")[0]
    assert "schema up to date (revision " in maker.run("db", "upgrade")[0]


def test_db_upgrade_that_cannot_connect_fails_in_one_line(tmp_path, ray, postgres):
    secret = "a-wrong-password"
    here = Client(tmp_path, ray, {"MLFLOW_BACKEND_STORE_URI": postgres.uri("postgres", secret)})
    where = f"postgresql://127.0.0.1:{postgres.port}/postgres"
    _, err = here.run("db", "upgrade", code=3)
    assert re.fullmatch(rf"error: MLflow at {where}: .*password authentication failed .*PGPASSWORD\)\n", err)
    nobody = f"postgresql://127.0.0.1:{free_port()}/mlflow"
    _, err = here.run("db", "upgrade", "--tracking-uri", nobody, code=3)
    assert re.fullmatch(rf"error: MLflow at {nobody}: .*Connection refused.*\n", err)
    _, err = here.run("db", "upgrade", "--tracking-uri", f"http://me:{secret}@127.0.0.1:5000", code=2)
    assert err.startswith("error: http://127.0.0.1:5000 is a server, and the schema is its database's: ")
    assert err.count("\n") == 1
    _, err = here.run("db", "upgrade", "--tracking-uri", "runs", code=2)
    assert err == 'error: --tracking-uri: "runs" is no MLflow: http://HOST:PORT, sqlite:///FILE or postgresql://...\n'


def _holding(needle: str, folders: list[Path]) -> list[Path]:
    """Files of folders that have a text in them."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if needle.encode() in _content(path)]


def _content(path: Path) -> bytes:
    # Servers that live remove files, too.
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_secrets_are_in_no_file(client, tmp_path, tmp_path_factory, ray, mlflow_server, postgres):
    # Even if a user puts them where they do not belong: a whole store, mirrored with a password in the URI.
    password = mlflow_server.user_password
    careless = Client(tmp_path / "careless", ray, {})
    shutil.copytree(client.store, careless.store, ignore=shutil.ignore_patterns("mirror.json"))
    where = f"http://{USER}:{password}@127.0.0.1:{mlflow_server.port}"
    out, _ = careless.run("sync", "--tracking-uri", where, "--experiment", "careless")
    assert out == f"{CELLS + 1} runs brought up to date\n"
    assert len(_runs(postgres, mlflow_server, "careless")) == CELLS + 1
    wrong = where.replace(password, f"{password}-not")
    assert careless.run("sync", "--tracking-uri", wrong, "--experiment", "careless", code=3)[1].count("\n") == 1
    assert where.replace(f"{USER}:{password}@", "") in careless.run("ui", "--tracking-uri", where)[0]
    (tmp_path / "dump").write_text(postgres.run("pg_dump", database=mlflow_server.name))

    # Everything that this and all tests before it wrote.
    folders = [tmp_path_factory.getbasetemp(), ray, mlflow_server.folder, postgres.folder]
    pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
    for secret in (password, pair, mlflow_server.admin_password, mlflow_server.flask_key, postgres.password):
        assert _holding(secret, folders) == []
    # The search finds what is there: in stores, artifacts, the server's logs, PostgreSQL's and its rows. A local Ray
    # takes its own with it when it ends; what they hold while it runs is looked at in `security/test_watched_run.py`.
    holding = {parent for path in _holding("test_resnet", folders) for parent in path.parents}
    assert {client.store, careless.store, mlflow_server.artifacts} <= holding
    assert mlflow_server.log in _holding("Uvicorn running", folders)
    assert postgres.log in _holding("connection authorized", folders)
    assert (tmp_path / "dump") in _holding(USER, folders)
    assert _holding(postgres.password_hash, [postgres.folder])
