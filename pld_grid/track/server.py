"""Which MLflow is meant, how it is kept quiet, and what its errors mean to a user."""

import logging
import os
import re
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pld_grid.errors import InputError, TrackingError
from pld_grid.uris import public_uri, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "pld_grid"
# Without it, MLflow's UI takes the experiment for one about language models and hides training runs.
KIND = {"mlflow.experimentKind": "custom_model_development"}
SQLITE = "sqlite:///"

# MLflow's own defaults wait for minutes when a server is away; our retry is the store. The user's settings win.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# Each of these logs every single failure, with a traceback or once per retry; we report an outage once, as an error.
_LOUD = ("mlflow.store.db.utils", "urllib3.connectionpool")
_ANSWER = re.compile(r"failed with error code (\d+)|too many (\d+) error responses|not in a valid JSON format")
_TRANSPORT = re.compile(
    r"\[Errno -?\d+\] ([\w ]+)|Read timed out|Connection aborted|Connection broken|NameResolutionError|SSLError"
)


def default_tracking_uri(folder: str | os.PathLike[str]) -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else an embedded database in `folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path(folder).absolute() / 'mlflow.db'}"


def database_path(tracking_uri: str) -> Path | None:
    """The file behind an embedded database's URI; None for any other URI."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return Path(tracking_uri.removeprefix(SQLITE)).absolute()


def kind(tracking_uri: str) -> str:
    """What a tracking URI is of: sqlite, postgresql, http or https if it is any that we know."""
    return tracking_uri.partition("://")[0].partition("+")[0].lower()


def artifact_location(tracking_uri: str) -> str | None:
    """Where an embedded database keeps its runs' files: beside itself. None: the server decides."""
    path = database_path(tracking_uri)
    return (path.parent / "mlartifacts").as_uri() if path else None


def load() -> None:
    """Imports MLflow under our settings: every use of it begins here.

    Raises InputError for a setting of the user's that it cannot take, which would show as errors of anything.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    level = os.environ["MLFLOW_LOGGING_LEVEL"]
    if level and level.upper() not in logging.getLevelNamesMapping():
        raise InputError(f'MLFLOW_LOGGING_LEVEL: "{level}" is no level; MLflow takes DEBUG, INFO, WARNING and ERROR')
    try:
        from mlflow import environment_variables
    except ValueError as error:  # it reads some of them while it is imported
        raise InputError(f"a setting of MLflow's: {error}") from None
    for name in sorted(os.environ.keys() & vars(environment_variables).keys()):
        if not name.startswith("MLFLOW_"):
            continue
        try:
            getattr(environment_variables, name).get()
        except ValueError:
            raise InputError(f'{name}: "{os.environ[name]}" is no value that MLflow takes') from None


def connect(tracking_uri: str) -> "MlflowClient":
    """A client, which need not have contacted anything yet."""
    load()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def reporting(tracking_uri: str) -> Iterator[None]:
    """Turns what MLflow and its transports raise into a TrackingError of one line, without secrets.

    What it raises by mistake too: it trips over some of what a server may answer, or anybody write into its database.
    """
    load()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except Exception as error:
        expected = isinstance(error, (MlflowException, SQLAlchemyError, sqlite3.Error, OSError))
        if not expected and not _of_mlflow(error):
            raise
        said = explained(error, tracking_uri)
        said = said if expected else f"MLflow cannot read what it answered or has ({said})"
        raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: {said}") from error


def _of_mlflow(error: Exception) -> bool:
    """Whether an error arose in what we called of MLflow, rather than in code of ours."""
    names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = [name.partition(".")[0] for name in names]
    return "mlflow" in packages[::-1][: packages[::-1].index("pld_grid")]


def explained(error: Exception, tracking_uri: str) -> str:
    """What went wrong between us and MLflow and what to do about it: one line, without secrets."""
    text = without_secrets(str(error), tracking_uri)
    status = _http_status(error)
    if status == 401:
        return "401: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user and password that it knows"
    if status == 403 and "Host header" in text:
        name = urlsplit(public_uri(tracking_uri)).netloc
        return f"403: it does not go by the name {name}; start it with --allowed-hosts {name}"
    if status == 403:
        return "403: this user may not; an administrator of it can permit EDIT on the experiment"
    # "API request to ... failed with exception HTTPConnectionPool(...): Max retries exceeded ..."
    transport = _TRANSPORT.search(text) if text.startswith("API request to") or "ConnectionPool(" in text else None
    if transport:
        return f"cannot be reached ({(transport[1] or transport[0]).lower()})"
    if "out-of-date database schema" in text:
        return "its schema is another MLflow version's; make a copy of the database, then: pld-grid db upgrade"
    # "(psycopg.OperationalError) connection failed: ..."
    spoilt = _ANSWER.search(text)
    if spoilt:
        return f"it answered {spoilt[1] or spoilt[2]}" if spoilt[1] or spoilt[2] else "its answer was not whole"
    line = re.sub(r"^\([\w.]+\) ", "", (text.splitlines() or [type(error).__name__])[0])[:300]
    refused = "password authentication failed" in line or "no password supplied" in line
    return f"{line} (the password belongs in PGPASSWORD)" if refused else line


def passing(error: TrackingError) -> bool:
    """Whether an error says something of MLflow's health rather than of what it was asked."""
    if not isinstance(error.__cause__, Exception):
        return False
    status = _http_status(error.__cause__)
    return status is None or status == 429 or status >= 500


def _http_status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return getattr(getattr(error, "response", None), "status_code", None)


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
        if experiment is None:
            raise TrackingError(
                f'MLflow at {public_uri(tracking_uri)}: it has an experiment "{name}" and does not show it'
            )
    if not experiment.experiment_id:
        raise MlflowException("its answer is not whole")
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f'MLflow at {public_uri(tracking_uri)}: experiment "{name}" was deleted; restore it, or name another one'
        )
    return experiment.experiment_id


def ui_address(tracking_uri: str, port: int = 5000) -> str:
    """Where people look at MLflow: a server's own address, or that of `ui_command` on this machine."""
    if kind(tracking_uri) in ("http", "https"):
        return public_uri(tracking_uri).rstrip("/")
    return f"http://127.0.0.1:{port}"


def ui_command(tracking_uri: str, port: int = 5000) -> tuple[list[str], dict[str, str]] | None:
    """The command that serves MLflow's UI on this machine, and what its environment needs besides.

    None if a server does already (open its URI). Nobody sees the URI, which may have a password, among the processes.
    """
    if kind(tracking_uri) in ("http", "https"):
        return None
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return command, {"MLFLOW_BACKEND_STORE_URI": tracking_uri}
