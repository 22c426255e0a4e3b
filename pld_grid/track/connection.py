"""The way to one experiment of one MLflow: made when first needed, and again after an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pld_grid.errors import TrackingError
from pld_grid.track.database import prepare_database
from pld_grid.track.server import connect, experiment_id, reporting

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Connection:
    """Nothing is contacted before the first `get`."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self._found: tuple[MlflowClient, str] | None = None

    def get(self) -> "tuple[MlflowClient, str]":
        """A client, and the id of the experiment, which is created when missing."""
        if self._found is None:
            prepare_database(self.tracking_uri)
            client = connect(self.tracking_uri)
            self._found = client, experiment_id(client, self.tracking_uri, self.experiment)
        return self._found

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Errors of MLflow as TrackingErrors; the next attempt may meet a new server."""
        try:
            with reporting(self.tracking_uri):
                yield
        except TrackingError:
            self._found = None
            raise

    def works(self) -> bool:
        """Whether MLflow answers at all: tells an outage from a cell that it refuses."""
        try:
            with self.reporting():
                self.get()[0].search_experiments(max_results=1)
        except Exception:
            # Whatever it is: what failed before is what is told.
            return False
        return True
