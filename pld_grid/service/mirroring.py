"""Mirror runs to MLflow: in the background while they train, or afterwards."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Console

from pld_grid.experiment.grid import Grid
from pld_grid.planning.plan import Plan
from pld_grid.service.disk_space import estimate_mlflow_bytes, format_bytes
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.store.leases import Lease
from pld_grid.track.background_sync import BackgroundSync
from pld_grid.track.parent_runs import ParentRun
from pld_grid.track.tracker import Tracker
from pld_grid.track.tracking_uri import database_path
from pld_grid.util.errors import StoreError
from pld_grid.util.redact import public_uri

_TIMEOUT_SECONDS = 30.0
# After an interrupt, stop waiting for MLflow when nothing has arrived for this long.
_IDLE_TIMEOUT_SECONDS = 5.0


@contextlib.contextmanager
def mirror_to_mlflow(
    grids: Sequence[Grid], plan: Plan, store: Store, workspace: Workspace, console: Console
) -> Iterator[BackgroundSync]:
    """Mirror a run to MLflow in the background, as a submission of its own if MLflow lacks anything of it."""
    tracker = Tracker(store, workspace.tracking_uri, workspace.experiment)
    mirror = BackgroundSync(tracker)
    outcome: Literal["finished", "failed", "cancelled"] = "failed"
    with contextlib.ExitStack() as stack:
        parent = None
        if plan.pending or not tracker.parent_runs.cover(plan.grids):
            parent = ParentRun(
                name=", ".join(grid.name for grid in grids),
                profile=grids[0].profile.name,
                cells={cell_id: tuple(names) for cell_id, names in plan.grids.items()},
                trained=tuple(cell.cell_id for cell in plan.pending),
                summary={name: value for name, value in plan.summary().items() if isinstance(value, int)},
            )
            stack.enter_context(Lease(store, parent.submission_id).keep_alive())
            tracker.parent_runs.start(parent)
        mirror.start()
        try:
            yield mirror
            if all(store.receipt(cell) is not None for cell in plan.pending):
                outcome = "finished"
        except KeyboardInterrupt:
            outcome = "cancelled"
            raise
        finally:
            if parent is not None:
                # If the store is full or away, the error that ended the run has reported it.
                with contextlib.suppress(StoreError):
                    tracker.parent_runs.end(parent, outcome)
                mirror.request_sync(parent.submission_id)
                for cell in plan.pending:
                    mirror.request_sync(cell.cell_id)
            idle_timeout = _IDLE_TIMEOUT_SECONDS if outcome == "cancelled" else _TIMEOUT_SECONDS
            missing = mirror.close(_TIMEOUT_SECONDS, idle_timeout)
            if missing:
                console.print(_describe_missing_runs(missing, plan, workspace), style="yellow", soft_wrap=True)


def _describe_missing_runs(missing: int, plan: Plan, workspace: Workspace) -> str:
    """Return the warning about runs that MLflow lacks; of a local database, with the disk space that they need."""
    space = ""
    if database_path(workspace.tracking_uri) is not None:
        space = f", for which it needs at most {format_bytes(estimate_mlflow_bytes(plan.pending))}"
    return (
        f"MLflow at {public_uri(workspace.tracking_uri)} lacks {missing} runs{space}; they are kept in the "
        "store: `pld-grid sync` logs them later."
    )


def sync(workspace: Workspace | None = None) -> int:
    """Log to MLflow what it lacks of the store; return the number of runs logged. Raises TrackingError."""
    workspace = workspace or Workspace.default()
    return Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment).sync_all()
