"""The wish of a run that its cohorts stop after their epoch: a mark in the store, as workers may be on any machine."""

from pld_grid.store import Store

_FOLDER = "stops"


def request(store: Store, run: str) -> None:
    """Asks the run's cohorts to keep a checkpoint at the end of their epoch and stop."""
    store.write(b"stop\n", _FOLDER, run, durable=False)


def requested(store: Store, run: str) -> bool:
    """Whether this run was asked to stop; a run without a name never is."""
    return bool(run) and store.read(_FOLDER, run) is not None


def clear(store: Store, run: str) -> None:
    """Forgets the wish, once the run has ended."""
    store.remove(_FOLDER, run)
