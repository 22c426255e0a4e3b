"""Create and upgrade the schema of an MLflow database, in one process at a time.

If several processes let MLflow create the schema at the same time, or are killed while it does, a sqlite database is
damaged for good, and on PostgreSQL all but one of them fail. Hence a lock: a file beside an embedded database, which
gets its name only when it is complete; an advisory lock in PostgreSQL, which ends with the connection that holds it.
"""

import errno
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pld_grid.track.mlflow_client import translate_errors
from pld_grid.track.mlflow_internals import create_sqlite_schema, open_engine, upgrade_schema
from pld_grid.track.tracking_uri import SQLITE, database_path, is_server, uri_scheme
from pld_grid.util.errors import InputError, TrackingError
from pld_grid.util.redact import public_uri

if TYPE_CHECKING:
    from sqlalchemy import Engine

LOCK_TIMEOUT_SECONDS = 300
_LOCK_NUMBER = int.from_bytes(b"pld_grid", "big")  # PostgreSQL identifies advisory locks by numbers


def prepare_database(tracking_uri: str) -> None:
    """Create the schema of a sqlite or PostgreSQL database if it has none; do nothing for any other URI.

    Raises:
        InputError: one of MLflow's settings is wrong.
        TrackingError: the database cannot be reached or written, or another process holds its lock for too long.
    """
    path = database_path(tracking_uri)
    with translate_errors(tracking_uri):
        if path is not None:
            if not _has_schema(path):
                with _file_lock(path):
                    _create_database(path)
        elif uri_scheme(tracking_uri) == "postgresql":
            from sqlalchemy import inspect

            with open_engine(tracking_uri) as engine:
                # Alembic's own table is written by the last migration.
                if not inspect(engine).has_table("alembic_version"):
                    with _advisory_lock(engine, tracking_uri):
                        upgrade_schema(engine, tracking_uri)


def upgrade_database(tracking_uri: str) -> tuple[str | None, str]:
    """Create the schema of a database, or upgrade it to that of the installed MLflow.

    Returns:
        The schema's revision before (None if there was none) and now.

    Raises:
        InputError: the URI is not that of a sqlite or PostgreSQL database.
        TrackingError: as `prepare_database`; or the schema is a newer MLflow's.
    """
    path = database_path(tracking_uri)
    if path is not None:
        with translate_errors(tracking_uri), _file_lock(path):
            created = _create_database(path)
            with open_engine(tracking_uri) as engine:
                before, now = upgrade_schema(engine, tracking_uri)
                return None if created else before, now
    if uri_scheme(tracking_uri) != "postgresql":
        kind = "a server, and the schema is its database's" if is_server(tracking_uri) else "not a database"
        raise InputError(
            f"{public_uri(tracking_uri)} is {kind}: give the database's URI (postgresql://... or sqlite:///...), which "
            "an MLflow server has as --backend-store-uri"
        )
    with translate_errors(tracking_uri), open_engine(tracking_uri) as engine, _advisory_lock(engine, tracking_uri):
        return upgrade_schema(engine, tracking_uri)


@contextmanager
def _advisory_lock(engine: "Engine", tracking_uri: str) -> Iterator[None]:
    from sqlalchemy import text

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        # Polled, because waiting inside PostgreSQL keeps a snapshot open, for whose end some migrations wait.
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK_NUMBER}):
            if time.monotonic() > deadline:
                raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: another process is making its schema")
            time.sleep(0.2)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK_NUMBER})


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    lock = f"{path}.lock"
    try:
        _has_schema(path)  # raises before a lock is created beside a device
        path.parent.mkdir(parents=True, exist_ok=True)
        # FileLock would take every obstacle to creating the file for another process that holds the lock.
        if Path(lock).is_symlink():
            raise OSError(errno.ELOOP, f"{lock} is a link")
        Path(lock).touch()
        with FileLock(lock, timeout=LOCK_TIMEOUT_SECONDS):
            yield
    except OSError as error:  # among them filelock's Timeout
        raise TrackingError(f"MLflow database {path}: {error.strerror or error}") from None


def _has_schema(path: Path) -> bool:
    """Return whether the file has any content; MLflow judges what the content is.

    Raises TrackingError if the path is a device, a link or the like, which a new database would replace.
    """
    if path.is_file() and path.stat().st_size > 0:
        return True
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise TrackingError(f"MLflow database {path}: it is not a regular file")
    return False


def _create_database(path: Path) -> bool:
    """Create a database with a schema unless there is one; return whether it was created. Needs the lock."""
    if _has_schema(path):
        return False
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        create_sqlite_schema(f"{SQLITE}{temporary}", (path.parent / "mlartifacts").as_uri())
        # In this mode readers (the UI, a report) never wait for the writer. The mode is stored in the file.
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
