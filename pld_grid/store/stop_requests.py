"""Requests that the cohorts of a run stop after their epoch, as files that workers on any machine can read."""

from pld_grid.store import Store

_FOLDER = "stops"


def request(store: Store, run: str) -> None:
    """Ask the run's cohorts to save a checkpoint at the end of their epoch and stop."""
    store.write(b"stop\n", _FOLDER, run, durable=False)


def requested(store: Store, run: str) -> bool:
    """Return whether this run was asked to stop; False for a run without a name."""
    return bool(run) and store.read(_FOLDER, run) is not None


def clear(store: Store, run: str) -> None:
    """Remove the request, once the run has ended."""
    store.remove(_FOLDER, run)
