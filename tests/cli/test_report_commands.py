"""`report --check`, `--watch` and `--from records`."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import finish, make_parent_run
from cli_process import RETRY_TIMEOUT_SECONDS, Service, contents, rest, wait_for

from pld_grid.experiment.cell import Cell
from pld_grid.store import Store
from pld_grid.store.leases import Lease
from pld_grid.track.tracker import Tracker


class Prepared(Service):
    """A service whose cells are finished without training."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cells = list({cell.cell_id: cell for cell in self.load_grid().cells()}.values())

    def finish_cells(self, *cells: Cell) -> None:
        for cell in cells:
            finish(Store(self.store), cell)

    def report(self, *arguments: str, code: int = 0) -> list[str]:
        return self.run("report", "--out", "out", *arguments, code=code)[0].splitlines()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Return a service with a report of a finished grid."""
    service = Prepared(tmp_path_factory.mktemp("reported") / "service")
    service.finish_cells(*service.cells)
    service.report()
    return service


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_check_finds_every_change_to_a_report(reported):
    out, store = reported.folder / "out", Store(reported.store)
    before = contents(out)
    metrics = store.receipt(reported.cells[0]).metrics
    # Neither the store nor MLflow is read.
    reported.store.rename(reported.folder / "away")
    assert reported.report("--check") == ["out follows from its records"]
    assert reported.report("--from", "records") == ["out: up to date"]
    (reported.folder / "away").rename(reported.store)

    # A changed number, a missing file, an extra file, and a changed record.
    edit(out / "losses.csv", ",1,", ",2,")
    (out / "losses.md").unlink()
    (out / "old.csv").write_text("1\n")
    differences = reported.report("--check", code=1)
    assert [line.partition(": line")[0] for line in differences] == [
        "out/losses.csv: differs",
        "out/losses.md: missing",
        "out/old.csv: extra",
    ]
    (out / "old.csv").unlink()
    for name, data in before.items():
        (out / name).write_bytes(data)
    for number, files in (("top1", {"provenance.csv", "records.jsonl"}), ("seconds", {"records.jsonl"})):
        # The record's own metrics are the last that its line has; equal ones stand with the last epoch.
        head, place, tail = before["records.jsonl"].decode().rpartition(f'"{number}":{metrics[number]!r}')
        (out / "records.jsonl").write_text(f"{head}{place.partition(':')[0]}:99.0{tail}")
        files_found = {line.partition(": differs")[0] for line in reported.report("--check", code=1)}
        assert {f"out/{name}" for name in files} <= files_found
        (out / "records.jsonl").write_bytes(before["records.jsonl"])
    assert reported.report("--check") == ["out follows from its records"]
    assert contents(out) == before


@pytest.mark.slow
def test_check_without_records_fails(reported):
    _, err = reported.run("report", "--check", "--out", "elsewhere", code=2)
    assert "records.jsonl: no such file" in err


@pytest.fixture
def watched(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path / "service")


def has_finished(service: Prepared, wanted: int) -> Callable[[], bool]:
    """Return a check whether the report's page shows this number of finished cells."""
    page = service.folder / "out" / "README.md"
    return lambda: page.exists() and f"| {wanted} of {len(service.cells)} |" in page.read_text()


@pytest.mark.slow
def test_watch_ends_with_the_run_and_uploads_the_report(watched, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{watched.folder / '.pld_grid' / 'mlflow.db'}"
    store = Store(watched.store)
    ids = [cell.cell_id for cell in watched.cells]
    tracker = Tracker(store, uri)
    run = tracker.parent_runs.start(make_parent_run(ids))
    process = watched.start("report", "--out", "out", "--watch", "--interval", "0.1")
    with Lease(store, run.submission_id).keep_alive():
        wait_for(process, has_finished(watched, 0))
        assert "queued" in (watched.folder / "out" / "README.md").read_text()
        watched.finish_cells(watched.cells[0])
        wait_for(process, has_finished(watched, 1))
        watched.finish_cells(*watched.cells[1:])
        wait_for(process, has_finished(watched, len(ids)))
    out, err = process.communicate(timeout=RETRY_TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].startswith(f"out: 0 of {len(ids)} cells finished, {len(ids)} queued; ")
    assert lines[-1].startswith(f"out: {len(ids)} of {len(ids)} cells finished; ")

    client = MlflowClient(uri)
    (parent,) = client.search_runs([client.get_experiment_by_name("pld_grid").experiment_id])
    folder = Path(client.download_artifacts(parent.info.run_id, "report", str(tmp_path)))
    kept = contents(folder)
    assert kept.items() <= contents(watched.folder / "out").items()
    assert {"index.html", "losses.csv"} <= kept.keys()


@pytest.mark.slow
def test_watch_ends_on_ctrl_c(watched):
    process = watched.start("report", "--out", "out", "--watch")
    wait_for(process, has_finished(watched, 0))
    process.send_signal(signal.SIGINT)
    assert "no longer watching" in rest(process)
    assert process.wait(60) == 130


@pytest.mark.slow
def test_watch_requires_the_store(reported):
    for odd in (["--check"], ["--from", "mlflow"]):
        _, err = reported.run("report", "--watch", *odd, code=2)
        assert "--watch: goes with the store's records only" in err
