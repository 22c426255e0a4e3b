"""`report --check`, `--watch` and `--from records`, and the report that follows a run."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import finish
from service import PATIENCE, Service, contents, rest, wait_for

from pld_grid import api
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.track import Tracker, living


class Prepared(Service):
    """A service whose cells can be finished without training."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        grid = api.load_grid(folder / "losses.yaml", str(folder / "tiny.yaml"))
        self.cells = list({cell.cell_id: cell for cell in grid.cells()}.values())

    def finish(self, *cells: Cell) -> None:
        for cell in cells:
            finish(Store(self.store), cell)

    def report(self, *arguments: str, code: int = 0) -> list[str]:
        return self.run("report", "--out", "out", *arguments, code=code)[0].splitlines()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A report of a finished grid."""
    service = Prepared(tmp_path_factory.mktemp("reported") / "service")
    service.finish(*service.cells)
    service.report()
    return service


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_report_follows_from_its_records_until_it_is_touched(reported: Prepared):
    out, store = reported.folder / "out", Store(reported.store)
    before = contents(out)
    metrics = store.receipt(reported.cells[0]).metrics
    # Neither store nor MLflow are asked.
    reported.store.rename(reported.folder / "away")
    assert reported.report("--check") == ["out follows from its records"]
    assert reported.report("--from", "records") == ["out: up to date"]
    (reported.folder / "away").rename(reported.store)

    # A figure, a file gone, one too many, and a record that was improved.
    edit(out / "losses.csv", ",1,", ",2,")
    (out / "losses.md").unlink()
    (out / "old.csv").write_text("1\n")
    found = reported.report("--check", code=1)
    assert [line.partition(": line")[0] for line in found] == [
        "out/losses.csv: differs", "out/losses.md: missing", "out/old.csv: extra"
    ]  # fmt: skip
    (out / "old.csv").unlink()
    for name, data in before.items():
        (out / name).write_bytes(data)
    for number, files in (("top1", {"provenance.csv", "records.jsonl"}), ("seconds", {"records.jsonl"})):
        # The record's own metrics are the last that its line has; equal ones stand with the last epoch.
        head, place, tail = before["records.jsonl"].decode().rpartition(f'"{number}":{metrics[number]!r}')
        (out / "records.jsonl").write_text(f"{head}{place.partition(':')[0]}:99.0{tail}")
        found = {line.partition(": differs")[0] for line in reported.report("--check", code=1)}
        assert {f"out/{name}" for name in files} <= found
        (out / "records.jsonl").write_bytes(before["records.jsonl"])
    assert reported.report("--check") == ["out follows from its records"]
    assert contents(out) == before


def test_a_report_without_records_says_so(reported: Prepared):
    _, err = reported.run("report", "--check", "--out", "elsewhere", code=2)
    assert "records.jsonl: there is no such file" in err


@pytest.fixture
def watched(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path / "service")


def counted(service: Prepared, wanted: int) -> Callable[[], bool]:
    """Whether the report's page says how many cells are finished."""
    page = service.folder / "out" / "README.md"
    return lambda: page.exists() and f"| {wanted} of {len(service.cells)} |" in page.read_text()


def test_watching_ends_when_the_run_does_and_mlflow_has_the_report(watched: Prepared, tmp_path: Path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{watched.folder / '.pld_grid' / 'mlflow.db'}"
    store = Store(watched.store)
    ids = [cell.cell_id for cell in watched.cells]
    tracker = Tracker(store, uri)
    run = tracker.start_submission("run", profile="tiny", cells={i: ["losses"] for i in ids}, trained=ids)
    process = watched.start("report", "--out", "out", "--watch", "--interval", "0.1")
    with living(store, run.submission_id):
        wait_for(process, counted(watched, 0))
        assert "queued" in (watched.folder / "out" / "README.md").read_text()
        watched.finish(watched.cells[0])
        wait_for(process, counted(watched, 1))
        watched.finish(*watched.cells[1:])
        wait_for(process, counted(watched, len(ids)))
    out, err = process.communicate(timeout=PATIENCE)
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


def test_ctrl_c_ends_watching(watched: Prepared):
    process = watched.start("report", "--out", "out", "--watch")
    wait_for(process, counted(watched, 0))
    process.send_signal(signal.SIGINT)
    assert "no longer watching" in rest(process)
    assert process.wait(60) == 130


def test_watching_needs_the_store(reported: Prepared):
    for odd in (["--check"], ["--from", "mlflow"]):
        _, err = reported.run("report", "--watch", *odd, code=2)
        assert "--watch: goes with the store's records only" in err
