"""Reports of grids: from whatever holds their records, checked against these, and kept up to date while cells train."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from pld_grid import report as report_module
from pld_grid import track, watch
from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.records import Record, Records, with_stale
from pld_grid.report import Difference
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.workspace import Workspace

REFRESH = 30.0  # seconds between two refreshes of a report while cells train
Source = Literal["store", "mlflow", "records"]


def fetch_records(
    grids: Sequence[Grid], workspace: Workspace, source: Source, folder: str | Path | None = None
) -> dict[str, Record]:
    """Records of the grids' cells: from the store, from MLflow alone, or from those that a report's folder holds."""
    cells = _cells(grids)
    if source == "store":
        return _live(grids, workspace).read()
    if source == "records":
        _, found = report_module.load(folder or f"reports/{grids[0].profile.name}")
        return {cell_id: found[cell_id] for cell_id in cells if cell_id in found}
    found = track.records(workspace.tracking_uri, workspace.experiment, list(cells))
    return with_stale(found, cells.values(), partial(track.finished, workspace.tracking_uri, workspace.experiment))


def report(
    grids: Sequence[Grid],
    out: str | Path,
    workspace: Workspace | None = None,
    *,
    source: Source = "store",
    publish: bool = False,
) -> list[Path]:
    """Writes the report on grids into a folder; returns the files that changed.

    `source` says where the numbers come from: the store, MLflow alone, or the records that the folder holds already.
    `publish` also brings page and tables to MLflow, to the run of the newest submission. Raises InputError,
    StoreError or TrackingError, as the source may be.
    """
    workspace = workspace or Workspace.default()
    found = fetch_records(grids, workspace, source, out)
    if source == "records":
        _check_complete(found, out)
    if publish:
        _, refresh = _publishing(grids, out, workspace)
        return refresh(found)
    mlflow = report_module.load(out)[0].mlflow if source == "records" else track.ui_address(workspace.tracking_uri)
    return report_module.write_report(grids, found, out, paper_folder(), mlflow)


def print_tables(
    grids: Sequence[Grid], workspace: Workspace, console: Console, *, source: Source = "store",
    folder: str | Path | None = None,
) -> None:  # fmt: skip
    """Prints the grids' tables, ours beside the paper's."""
    found = fetch_records(grids, workspace, source, folder)
    for grid in grids:
        report_module.print_table(report_module.build_table(grid, found, paper_folder()), console)


def check_report(grids: Sequence[Grid], folder: str | Path) -> list[Difference]:
    """What of a report's folder does not follow from its records, the grids and this code."""
    origin, found = report_module.load(folder)
    return report_module.check(folder, report_module.report_files(grids, found, origin, paper_folder()))


def watch_report(
    grids: Sequence[Grid],
    out: str | Path,
    workspace: Workspace | None = None,
    *,
    interval: float = watch.INTERVAL,
    told: Callable[[Records, list[Path]], None] = lambda records, changed: None,
) -> None:
    """Writes the report whenever the store's records changed, until every cell has ended and no run is going on.

    `told` hears of the records and the files that changed. Raises as `report` does.
    """
    workspace = workspace or Workspace.default()
    publisher, refresh = _publishing(grids, out, workspace)
    try:
        watch.follow(_live(grids, workspace), lambda found: told(found, refresh(found)), interval)
    finally:
        publisher.flush()


@contextlib.contextmanager
def refreshed(grids: Sequence[Grid], out: str | Path, workspace: Workspace) -> Iterator[None]:
    """The report kept up to date in the background. Raises InputError if there could be none, before anything runs."""
    report_module.report_files(grids, {}, report_module.origin_of(grids), paper_folder())
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    publisher, refresh = _publishing(grids, out, workspace)
    with watch.Refresher(_live(grids, workspace), refresh, publisher.flush, REFRESH):
        yield


def paper_folder() -> Path | None:
    """Where the printed figures lie: `reports/paper` here, or beside the package."""
    folders = (Path("reports/paper"), Path(__file__).parent.parent / "reports" / "paper")
    return next((folder for folder in folders if folder.is_dir()), None)


def _cells(grids: Sequence[Grid]) -> dict[str, Cell]:
    return {cell.cell_id: cell for grid in grids for cell in grid.cells()}


def _check_complete(found: Records, folder: str | Path) -> None:
    """Raises InputError if a report of these records, written over its own evidence, would lose some of it."""
    _, known = report_module.load(folder)
    lost = known.keys() - found.keys()
    if lost:
        raise InputError(
            f"{folder}: {len(lost)} of its {len(known)} records are of no cell of these grids (profile, seeds and "
            "version count), and would be lost; nothing was written"
        )


def _live(grids: Sequence[Grid], workspace: Workspace) -> watch.LiveRecords:
    tracker = track.Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment)
    return watch.LiveRecords(tracker.store, _cells(grids).values(), tracker.address)


def _publishing(
    grids: Sequence[Grid], out: str | Path, workspace: Workspace
) -> tuple[watch.Publisher, Callable[[Records], list[Path]]]:
    """What writes a report from records, and what brings its page and tables to MLflow."""
    tracker = track.Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment)
    publisher = watch.Publisher(tracker, _cells(grids))
    origin = report_module.origin_of(grids, track.ui_address(workspace.tracking_uri))

    def refresh(found: Records) -> list[Path]:
        files = report_module.report_files(grids, found, origin, paper_folder())
        changed = report_module.write_files(out, files)
        shown = (name for name in files if name == "index.html" or ("/" not in name and name.endswith(".csv")))
        publisher.offer({name: files[name] for name in shown})
        return changed

    return publisher, refresh
