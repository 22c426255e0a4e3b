"""Import MLflow under our settings, create its client, and turn its errors into one line that says what to do."""

import logging
import os
import re
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pld_grid.track.mlflow_internals import TESTED_VERSION, check_settings
from pld_grid.util.errors import InputError, TrackingError
from pld_grid.util.redact import public_uri, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's defaults retry for minutes if a server is down; this package retries from the store instead.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# Each of these logs every failed request, with a traceback or once per retry; this package reports an outage once.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "urllib3.connectionpool")
_BAD_ANSWER = re.compile(r"failed with error code (\d+)|too many (\d+) error responses|not in a valid JSON format")
_TRANSPORT = re.compile(
    r"\[Errno -?\d+\] ([\w ]+)|Read timed out|Connection aborted|Connection broken|NameResolutionError|SSLError"
)


def import_mlflow() -> None:
    """Import MLflow under these settings; every use of it begins here.

    Raises InputError if an environment variable has a value that MLflow cannot parse.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    level = os.environ["MLFLOW_LOGGING_LEVEL"]
    if level and level.upper() not in logging.getLevelNamesMapping():
        raise InputError(f'MLFLOW_LOGGING_LEVEL: "{level}" is no level; MLflow takes DEBUG, INFO, WARNING and ERROR')
    check_settings()


def connect(tracking_uri: str) -> "MlflowClient":
    """Return a client; it contacts MLflow on first use."""
    import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def translate_errors(tracking_uri: str) -> Iterator[None]:
    """Turn every error that MLflow causes in the block into a TrackingError of one line, without secrets.

    This includes the errors that MLflow raises by mistake when a server's answer or a database has unexpected content.
    """
    import_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except Exception as error:
        expected = isinstance(error, (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError))
        if not expected and not _raised_in_mlflow(error):
            raise
        message = explain(error, tracking_uri)
        message = message if expected else f"unexpected {type(error).__name__} ({message})"
        raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: {message}") from error


def _raised_in_mlflow(error: Exception) -> bool:
    """Return whether MLflow was called by the last frame of this package in the traceback."""
    names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = [name.partition(".")[0] for name in names][::-1]
    return "mlflow" in packages[: packages.index("pld_grid")]


def explain(error: Exception, tracking_uri: str) -> str:
    """Return what went wrong between this process and MLflow, and the remedy: one line, without secrets."""
    text = without_secrets(str(error), tracking_uri)
    if isinstance(error, ModuleNotFoundError):
        remedy = ": pip install 'pld_grid[server]'" if error.name == "psycopg" else ""
        return f"the package {error.name} is missing{remedy}"
    if isinstance(error, ImportError):
        from mlflow.version import VERSION

        return f"MLflow {VERSION} differs from {TESTED_VERSION}, with which pld_grid is tested: {text}"
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
    answer = _BAD_ANSWER.search(text)
    if answer:
        code = answer[1] or answer[2]
        return f"it answered {code}" if code else "its answer is incomplete"
    # "(psycopg.OperationalError) connection failed: ..."
    line = re.sub(r"^\([\w.]+\) ", "", (text.splitlines() or [type(error).__name__])[0])[:300]
    refused = "password authentication failed" in line or "no password supplied" in line
    return f"{line} (the password belongs in PGPASSWORD)" if refused else line


def _http_status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return getattr(getattr(error, "response", None), "status_code", None)
