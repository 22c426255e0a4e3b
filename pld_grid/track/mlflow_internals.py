"""Adapter to the parts of MLflow that are not public API: its tables, store classes, migrations and settings.

Tested with MLflow 3.17. If another version lacks one of these parts, `list_runs` leaves the work to the public API, and
the other functions raise ImportError, which `translate_errors` explains.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pld_grid.util.errors import InputError, TrackingError
from pld_grid.util.redact import public_uri

if TYPE_CHECKING:
    from sqlalchemy import Engine

TESTED_VERSION = "3.17"
_LIST_RUNS = """
    SELECT run_uuid, experiment_id, status, start_time, artifact_uri, key, value FROM runs JOIN tags USING (run_uuid)
    WHERE experiment_id = ? AND lifecycle_stage = 'active' AND key LIKE ? AND typeof(start_time) = 'integer'
        AND typeof(run_uuid) = 'text' AND typeof(artifact_uri) = 'text' AND typeof(value) = 'text'
    ORDER BY start_time, run_uuid
"""


def check_settings() -> None:
    """Raise InputError if an environment variable has a value that MLflow cannot parse.

    Otherwise the error would be raised wherever MLflow reads the variable first.
    """
    try:
        from mlflow import environment_variables
    except ValueError as error:  # MLflow parses some of the variables at import
        raise InputError(f"a setting of MLflow's: {error}") from None
    for name in sorted(os.environ.keys() & vars(environment_variables).keys()):
        if name.startswith("MLFLOW_"):
            try:
                getattr(environment_variables, name).get()
            except ValueError:
                raise InputError(f'{name}: "{os.environ[name]}" is no value that MLflow takes') from None


def list_runs(path: Path, experiment_id: str, prefix: str) -> list[tuple[Any, ...]] | None:
    """Read all active runs of an experiment from a sqlite database.

    MLflow's client creates an object for every parameter and metric, about 80 per run, which takes many times as long
    for thousands of runs.

    Args:
        path: the database.
        experiment_id: the experiment.
        prefix: only tags whose names begin with it are read; runs without such a tag are left out.

    Returns:
        (run id, experiment id, status, start time in ms, artifact URI, tags) for each run, oldest first; None if the
        tables are not those of the tested version, in which case the caller asks the client.
    """
    try:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(_LIST_RUNS, (experiment_id, f"{prefix}%"))
            return [
                (run[0], str(run[1]), *run[2:], {key: value for *_, key, value in tags})
                for run, tags in groupby(rows, key=lambda row: row[:5])
            ]
    except sqlite3.Error:
        return None


def open_artifacts(artifact_uri: str, tracking_uri: str) -> Any:
    """Return the repository of a run's artifacts.

    A client would look up the artifact URI once more, and cache a wrong answer as long as the process lives.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(artifact_uri, tracking_uri)


def create_sqlite_schema(tracking_uri: str, artifact_uri: str) -> None:
    """Create MLflow's schema and default experiment in an empty sqlite database."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(tracking_uri, artifact_uri).engine.dispose()  # type: ignore[no-untyped-call]


@contextmanager
def open_engine(tracking_uri: str) -> Iterator["Engine"]:
    """Yield an engine that connects on first use, without MLflow's minutes of retries."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    try:
        engine = create_sqlalchemy_engine(tracking_uri)  # type: ignore[no-untyped-call]
    except ValueError as error:  # a port that is no number
        raise TrackingError(f"MLflow at {public_uri(tracking_uri)}: {error}") from None
    try:
        yield engine
    finally:
        engine.dispose()


def upgrade_schema(engine: "Engine", tracking_uri: str) -> tuple[str | None, str]:
    """Create or upgrade the schema behind an engine. The caller must hold the lock of the database.

    Returns:
        The schema's revision before (None if there was none) and now.
    """
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version, _initialize_tables
    from mlflow.version import VERSION

    before: str | None = _get_schema_version(engine)  # type: ignore[no-untyped-call]
    latest: str = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if before != latest:
        try:
            # Works from any state of the database: empty, partly created, or an older version's.
            _initialize_tables(engine)  # type: ignore[no-untyped-call]
        except CommandError:
            raise TrackingError(
                f"MLflow at {public_uri(tracking_uri)}: its schema ({before}) is newer than MLflow {VERSION}, which is "
                "installed here; use the version that made it"
            ) from None
    return before, latest
