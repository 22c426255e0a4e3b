"""Which MLflow is meant, how the embedded one is made, and how it is kept quiet."""

import logging
import os
import re
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from pld_grid.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "pld_grid"
# Without it, MLflow's UI takes the experiment for one about language models and hides training runs.
KIND = {"mlflow.experimentKind": "custom_model_development"}
SCHEMA_TIMEOUT = 300  # seconds to wait for another process that makes the schema
_SQLITE = "sqlite:///"

# MLflow's own defaults wait for minutes when a server is away; our retry is the store. The user's settings win.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Each of these logs every single failure, with a traceback or once per retry; we report an outage once, as an error.
_LOUD = ("mlflow.store.db.utils", "urllib3.connectionpool")
_TRANSPORT = re.compile(r"\[Errno -?\d+\] ([\w ]+)|Read timed out|Connection aborted|NameResolutionError|SSLError")


def default_tracking_uri(folder: str | os.PathLike[str]) -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else an embedded database in `folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{Path(folder).absolute() / 'mlflow.db'}"


def public_uri(tracking_uri: str) -> str:
    """The URI without user name and password: what may be printed and stored."""
    parts = urlsplit(tracking_uri)
    if "@" not in parts.netloc:
        return tracking_uri
    return tracking_uri.replace(parts.netloc, parts.netloc.rsplit("@", 1)[1], 1)


def database_path(tracking_uri: str) -> Path | None:
    """The file behind an embedded database's URI; None for any other URI."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    return Path(tracking_uri.removeprefix(_SQLITE)).absolute()


def artifact_location(tracking_uri: str) -> str | None:
    """Where an embedded database keeps its runs' files: beside itself. None: the server decides."""
    path = database_path(tracking_uri)
    return (path.parent / "mlartifacts").as_uri() if path else None


def quiet() -> None:
    """Settings that MLflow reads when it is first imported: every use of it begins here."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect(tracking_uri: str) -> "MlflowClient":
    """A client, which need not have contacted anything yet."""
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def reporting(tracking_uri: str) -> Iterator[None]:
    """Turns what MLflow and its transports raise into a TrackingError of one line, without secrets."""
    quiet()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: {_brief(error, tracking_uri)}") from error


def _brief(error: Exception, tracking_uri: str) -> str:
    text = str(error).replace(tracking_uri, public_uri(tracking_uri)).strip()
    # "API request to ... failed with exception HTTPConnectionPool(...): Max retries exceeded ..."
    transport = _TRANSPORT.search(text) if text.startswith("API request to") else None
    if transport:
        return f"cannot be reached ({(transport[1] or transport[0]).lower()})"
    return (text.splitlines() or [type(error).__name__])[0][:300]


def experiment_id(client: "MlflowClient", tracking_uri: str, name: str) -> str:
    """The id of an experiment, which is created when missing; several processes may do so at once."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location(tracking_uri), tags=KIND)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None, "it already exists"
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f'MLflow at {public_uri(tracking_uri)}: experiment "{name}" was deleted; restore it, or name another one'
        )
    return experiment.experiment_id


def prepare_database(tracking_uri: str) -> None:
    """Makes the schema of an embedded database that has none yet; does nothing for any other URI.

    Processes that let MLflow make the schema at the same time, or die while it does, spoil the database for good.
    Hence one at a time, in a file that gets its name only when it is complete.
    """
    path = database_path(tracking_uri)
    if path is None or _has_schema(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=SCHEMA_TIMEOUT):
            if not _has_schema(path):
                _make_database(path)
    except Timeout:
        raise TrackingError(f"MLflow at {tracking_uri}: another process holds {path}.lock") from None
    except OSError as error:
        raise TrackingError(f"MLflow database {path}: {error.strerror or error}") from None


def _has_schema(path: Path) -> bool:
    """Whether there is anything in the file; what is in it is for MLflow to judge."""
    return path.exists() and path.stat().st_size > 0


def _make_database(path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        connect(f"{_SQLITE}{temporary}")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            f"{_SQLITE}{temporary}", (path.parent / "mlartifacts").as_uri()
        )
        store.engine.dispose()
        # Readers (the UI, a report) then never wait for the writer. The setting stays with the file.
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def ui_command(tracking_uri: str, port: int = 5000) -> list[str] | None:
    """The command that serves MLflow's UI on this machine; None if a server does already (open its URI)."""
    if urlsplit(tracking_uri).scheme in ("http", "https"):
        return None
    where = ["--backend-store-uri", tracking_uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "ui", *where]
