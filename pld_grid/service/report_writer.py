"""Write reports from the store, MLflow or a report's own records; check them; keep them up to date."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Grid
from pld_grid.report.file_comparison import FileDifference, compare_folder
from pld_grid.report.records_file import Origin, load_records
from pld_grid.report.report_files import render_report, write_report_files
from pld_grid.report.table_builder import build_table
from pld_grid.report.terminal_table import print_table
from pld_grid.service import live_report
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.store.records import CellRecord, Records
from pld_grid.track import mirrored_records
from pld_grid.track.tracker import Tracker
from pld_grid.track.tracking_uri import ui_address
from pld_grid.util.errors import InputError
from pld_grid.util.shipped_files import find_shipped

REFRESH_INTERVAL_SECONDS = 30.0
Source = Literal["store", "mlflow", "records"]


def fetch_records(
    grids: Sequence[Grid], workspace: Workspace, source: Source, folder: str | Path | None = None
) -> dict[str, CellRecord]:
    """Return the records of the grids' cells by id.

    Args:
        grids: their cells are looked up.
        workspace: the store and MLflow.
        source: `store`, `mlflow` (without the store), or `records` (those in a report's folder).
        folder: the report's folder for `records`; default: `reports/PROFILE`.
    """
    cells = _cells_by_id(grids)
    if source == "store":
        return _live_records(grids, workspace).read()
    if source == "records":
        _, records = load_records(folder or f"reports/{grids[0].profile.name}")
        return {cell_id: records[cell_id] for cell_id in cells if cell_id in records}
    return mirrored_records.load_records(workspace.tracking_uri, workspace.experiment, list(cells))


def write_report(
    grids: Sequence[Grid],
    out: str | Path,
    workspace: Workspace | None = None,
    *,
    source: Source = "store",
    publish: bool = False,
) -> list[Path]:
    """Write the report on grids into a folder.

    Args:
        grids: what to report.
        out: the folder to write.
        workspace: the store and MLflow.
        source: where the numbers come from: `store`, `mlflow`, or the `records` that the folder holds already.
        publish: also upload page and tables to MLflow, to the run of the newest submission.

    Returns:
        The files that changed.

    Raises:
        InputError, StoreError or TrackingError: the source cannot be read.
    """
    workspace = workspace or Workspace.default()
    records = fetch_records(grids, workspace, source, out)
    mlflow = ui_address(workspace.tracking_uri)
    if source == "records":
        recorded, stored = load_records(out)
        if lost := stored.keys() - records.keys():
            raise InputError(
                f"{out}: {len(lost)} of its {len(stored)} records are of no cell of these grids (profile, seeds and "
                "version count), and would be lost; nothing was written"
            )
        mlflow = recorded.mlflow
    if publish:
        _, refresh = _make_publisher(grids, out, workspace)
        return refresh(records)
    origin = Origin.from_grids(grids, mlflow)
    return write_report_files(out, render_report(grids, records, origin, find_paper_folder()))


def print_tables(
    grids: Sequence[Grid],
    workspace: Workspace,
    console: Console,
    *,
    source: Source = "store",
    folder: str | Path | None = None,
) -> None:
    """Print the grids' tables beside the paper's; for the arguments see `fetch_records`."""
    records = fetch_records(grids, workspace, source, folder)
    for grid in grids:
        print_table(build_table(grid, records, find_paper_folder()), console)


def check_report(grids: Sequence[Grid], folder: str | Path) -> list[FileDifference]:
    """Return the differences between a report's files and a report rebuilt from its own records."""
    origin, records = load_records(folder)
    return compare_folder(folder, render_report(grids, records, origin, find_paper_folder()))


def watch_report(
    grids: Sequence[Grid],
    out: str | Path,
    workspace: Workspace | None = None,
    *,
    interval: float = live_report.POLL_INTERVAL_SECONDS,
    on_refresh: Callable[[Records, list[Path]], None] = lambda records, changed: None,
) -> None:
    """Write the report whenever the store's records change, until every cell has ended and no run is active.

    Args:
        grids: what to report.
        out: the folder to write.
        workspace: the store and MLflow.
        interval: seconds between two reads of the store.
        on_refresh: called after each write with the records and the files that changed.

    Raises:
        InputError, StoreError or TrackingError: as for `write_report`.
    """
    workspace = workspace or Workspace.default()
    publisher, refresh = _make_publisher(grids, out, workspace)
    try:
        live = _live_records(grids, workspace)
        while not live.show_changes(lambda records: on_refresh(records, refresh(records))):
            time.sleep(interval)
    finally:
        publisher.flush()


@contextlib.contextmanager
def keep_refreshed(grids: Sequence[Grid], out: str | Path, workspace: Workspace) -> Iterator[None]:
    """Keep a report up to date in the background. Raises InputError before the block if it cannot be written."""
    render_report(grids, {}, Origin.from_grids(grids), find_paper_folder())
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    publisher, refresh = _make_publisher(grids, out, workspace)
    live = _live_records(grids, workspace)
    with live_report.refresh_in_background(live, refresh, publisher.flush, REFRESH_INTERVAL_SECONDS):
        yield


def find_paper_folder() -> Path | None:
    """Return the folder of the printed figures: `reports/paper` here, or of the package."""
    return find_shipped("reports/paper")


def _cells_by_id(grids: Sequence[Grid]) -> dict[str, Cell]:
    return {cell.cell_id: cell for grid in grids for cell in grid.cells()}


def _live_records(grids: Sequence[Grid], workspace: Workspace) -> live_report.LiveRecords:
    tracker = Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment)
    return live_report.LiveRecords(tracker.store, _cells_by_id(grids).values(), tracker.address)


def _make_publisher(
    grids: Sequence[Grid], out: str | Path, workspace: Workspace
) -> tuple[live_report.Publisher, Callable[[Records], list[Path]]]:
    """Return a publisher, and a function that writes the report from records and updates the publisher."""
    tracker = Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment)
    publisher = live_report.Publisher(tracker, _cells_by_id(grids))
    origin = Origin.from_grids(grids, ui_address(workspace.tracking_uri))

    def refresh(records: Records) -> list[Path]:
        files = render_report(grids, records, origin, find_paper_folder())
        changed = write_report_files(out, files)
        published = (name for name in files if name == "index.html" or ("/" not in name and name.endswith(".csv")))
        publisher.update({name: files[name] for name in published})
        return changed

    return publisher, refresh
