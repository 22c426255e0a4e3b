"""The schema of an MLflow database: made, or brought up to date, by one process at a time.

Processes that let MLflow make the schema at the same time, or die while it does, spoil a sqlite database for good, and
all but one of them fail on PostgreSQL. Hence a lock: a file beside an embedded database, which gets its name only when
it is complete; an advisory lock inside PostgreSQL, which ends with the connection that holds it.
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

from filelock import FileLock, Timeout

from pld_grid.errors import InputError, TrackingError
from pld_grid.track.server import SQLITE, connect, database_path, kind, load, reporting
from pld_grid.uris import public_uri

if TYPE_CHECKING:
    from sqlalchemy import Engine

SCHEMA_TIMEOUT = 300  # seconds to wait for another process that makes the schema
_LOCK = int.from_bytes(b"pld_grid", "big")  # PostgreSQL names advisory locks by number


def prepare_database(tracking_uri: str) -> None:
    """Makes the schema of a sqlite or PostgreSQL database that has none yet; does nothing for any other URI.

    Raises:
        InputError: one of MLflow's settings is wrong.
        TrackingError: the database cannot be reached or written, or another process holds its lock for too long.
    """
    path = database_path(tracking_uri)
    with reporting(tracking_uri):
        if path is not None:
            if not _has_schema(path):
                with _file_lock(path):
                    if not _has_schema(path):
                        _make_database(path)
        elif kind(tracking_uri) == "postgresql":
            from sqlalchemy import inspect

            with _engine(tracking_uri) as engine:
                # Alembic's own table comes with the last migration or not at all.
                if not inspect(engine).has_table("alembic_version"):
                    with _advisory_lock(engine, tracking_uri):
                        _upgrade(engine, tracking_uri)


def upgrade_database(tracking_uri: str) -> tuple[str | None, str]:
    """Makes the schema of a database, or brings it up to what the installed MLflow wants.

    Returns:
        The schema's revision before (None: there was none) and now.

    Raises:
        InputError: the URI is not that of a sqlite or PostgreSQL database.
        TrackingError: as `prepare_database`; or the schema is a newer MLflow's.
    """
    path = database_path(tracking_uri)
    if path is not None:
        with reporting(tracking_uri), _file_lock(path):
            if not _has_schema(path):
                _make_database(path)
                with _engine(tracking_uri) as engine:
                    return None, _upgrade(engine, tracking_uri)[1]
            with _engine(tracking_uri) as engine:
                return _upgrade(engine, tracking_uri)
    if kind(tracking_uri) in ("http", "https"):
        raise InputError(
            f"{public_uri(tracking_uri)} is a server, and the schema is its database's: give the URI that the server "
            "has as --backend-store-uri (postgresql://... or sqlite:///...)"
        )
    if kind(tracking_uri) != "postgresql":
        raise InputError(f"{public_uri(tracking_uri)} is not a database: give postgresql://... or sqlite:///...")
    with reporting(tracking_uri), _engine(tracking_uri) as engine, _advisory_lock(engine, tracking_uri):
        return _upgrade(engine, tracking_uri)


def _upgrade(engine: "Engine", tracking_uri: str) -> tuple[str | None, str]:
    """Inside the lock: revisions before and after."""
    from alembic.util import CommandError
    from mlflow.store.db import utils
    from mlflow.version import VERSION

    before: str | None = utils._get_schema_version(engine)  # type: ignore[no-untyped-call]
    latest: str = utils._get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if before != latest:
        try:
            # Goes on wherever the database stands: empty, half made, or an older version's.
            utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
        except CommandError:
            raise TrackingError(
                f"MLflow at {public_uri(tracking_uri)}: its schema ({before}) is newer than MLflow {VERSION}, which is "
                "installed here; use the version that made it"
            ) from None
    return before, latest


@contextmanager
def _engine(tracking_uri: str) -> Iterator["Engine"]:
    """Connects when first used, and without MLflow's minutes of retries."""
    load()
    from mlflow.store.db.utils import create_sqlalchemy_engine

    try:
        engine = create_sqlalchemy_engine(tracking_uri)  # type: ignore[no-untyped-call]
    except ValueError as error:  # a port that is no number
        raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: {error}") from None
    except ModuleNotFoundError as error:
        ours = ": pip install 'pld_grid[server]'" if error.name == "psycopg" else ""
        raise TrackingError(
            f"MLflow at {public_uri(tracking_uri)}: the package {error.name} is missing{ours}"
        ) from None
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _advisory_lock(engine: "Engine", tracking_uri: str) -> Iterator[None]:
    from sqlalchemy import text

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        until = time.monotonic() + SCHEMA_TIMEOUT
        # Asked again and again, because waiting inside PostgreSQL keeps a snapshot, which some migrations wait for.
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
            if time.monotonic() > until:
                raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: another process is making its schema")
            time.sleep(0.2)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    lock = f"{path}.lock"
    try:
        _has_schema(path)  # beside a device not even a lock is made
        path.parent.mkdir(parents=True, exist_ok=True)
        # What keeps it from being made is no other process, for which FileLock takes it.
        if Path(lock).is_symlink():
            raise OSError(errno.ELOOP, f"{lock} is a link")
        Path(lock).touch()
        with FileLock(lock, timeout=SCHEMA_TIMEOUT):
            yield
    except Timeout:
        raise TrackingError(f"MLflow database {path}: another process holds {lock}") from None
    except OSError as error:
        raise TrackingError(f"MLflow database {path}: {error.strerror or error}") from None


def _has_schema(path: Path) -> bool:
    """Whether there is anything in the file; what is in it is for MLflow to judge.

    Raises TrackingError where something else has the name, such as a device or a link: a database would replace it.
    """
    if path.is_file() and path.stat().st_size > 0:
        return True
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise TrackingError(f"MLflow database {path}: it is not a regular file")
    return False


def _make_database(path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        connect(f"{SQLITE}{temporary}")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            f"{SQLITE}{temporary}", (path.parent / "mlartifacts").as_uri()
        )
        store.engine.dispose()
        # Readers (the UI, a report) then never wait for the writer. The setting stays with the file.
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
