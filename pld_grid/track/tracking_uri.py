"""Tracking URIs: which MLflow is meant, and where people open it."""

import os
import sys
from pathlib import Path

from pld_grid.util.redact import public_uri

EXPERIMENT = "pld_grid"
SQLITE = "sqlite:///"


def default_tracking_uri(folder: str | os.PathLike[str]) -> str:
    """Return `MLFLOW_TRACKING_URI` if it is set, else the URI of an embedded database in `folder`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path(folder).absolute() / 'mlflow.db'}"


def database_path(tracking_uri: str) -> Path | None:
    """Return the file of an embedded database; None for any other URI."""
    return Path(tracking_uri.removeprefix(SQLITE)).absolute() if tracking_uri.startswith(SQLITE) else None


def uri_scheme(tracking_uri: str) -> str:
    """Return the scheme of a URI without a driver: sqlite, postgresql, http or https."""
    return tracking_uri.partition("://")[0].partition("+")[0].lower()


def is_server(tracking_uri: str) -> bool:
    """Return whether the URI is that of an MLflow server."""
    return uri_scheme(tracking_uri) in ("http", "https")


def ui_address(tracking_uri: str, port: int = 5000) -> str:
    """Return where people open MLflow: the address of its server, or that of `ui_command` on this machine."""
    return public_uri(tracking_uri).rstrip("/") if is_server(tracking_uri) else f"http://127.0.0.1:{port}"


def ui_command(tracking_uri: str, port: int = 5000) -> tuple[list[str], dict[str, str]] | None:
    """Return the command that serves MLflow's UI on this machine, and the environment variables that it needs.

    The URI, which may contain a password, is passed by the environment, so that no list of processes shows it. None if
    the URI is that of a server, which has a UI.
    """
    if is_server(tracking_uri):
        return None
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return command, {"MLFLOW_BACKEND_STORE_URI": tracking_uri}
