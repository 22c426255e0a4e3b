"""Two spec versions of the package that share one store."""

from pathlib import Path

import pytest
from cli_process import PROFILE, Service
from startup_code import write_startup_code

from pld_grid.experiment.cell import SPEC_VERSION
from pld_grid.store import Store, claims

GRID = """
cells: {teacher: big, student: small, epochs: 2, loss: [ce, pld]}
table:
  rows: [student]
  columns:
    - {header: Student, axis: student}
    - {header: CE, metric: top1, where: {loss: ce}}
    - {header: PLD, metric: top1, where: {loss: pld}}
"""
MORE = GRID.replace("[ce, pld]", "[ce, pld, kd]")

# The same code under the next spec version.
RAISED = f"""
import importlib.machinery


class Raised(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        text = self.get_data(self.path)
        changed = text.replace(b"\\nSPEC_VERSION = {SPEC_VERSION}\\n", b"\\nSPEC_VERSION = {SPEC_VERSION + 1}\\n")
        assert changed != text
        return compile(changed, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "pld_grid.experiment.cell":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Raised(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
"""


class Next(Service):
    """A service of the next spec version with the store and MLflow of another one."""

    def __init__(self, folder: Path, grid: str, beside: Service) -> None:
        super().__init__(folder, profile=PROFILE, grid=grid)
        self.environment |= write_startup_code(folder / "early", RAISED)
        self.environment |= {"PLD_GRID_STORE": str(beside.store), "MLFLOW_TRACKING_URI": beside.tracking_uri}


def files(store: Path, cells: set[str]) -> dict[str, tuple[int, bytes]]:
    """Return the result files of cells with their times and contents."""
    paths = [store / cell_id / name for cell_id in cells for name in ("receipt.json", "weights.safetensors")]
    paths += [path for cell_id in cells for path in (store / cell_id / claims.CLAIMS).iterdir()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths if path.exists()}


@pytest.fixture
def now(tmp_path: Path, database: Path) -> Service:
    return Service(tmp_path / "now", profile=PROFILE, grid=GRID, database=database)


def test_runs_of_two_spec_versions_share_a_store_but_no_results(now, tmp_path, watch, count):
    now.run("run")
    ours = set(now.receipts())
    assert len(ours) == 3
    before = files(now.store, ours)
    later = Next(tmp_path / "later", GRID, now)
    # A result of another spec version is no result.
    later.run("report", "--out", "tables")
    table = (later.folder / "tables" / "losses.md").read_text()
    assert "not run" in table
    assert not any(f"{receipt.metrics['top1']:.2f}" in table for receipt in now.receipts().values())
    # Both train their own cells at the same time.
    (now.folder / "losses.yaml").write_text(MORE)
    runs = [watch(now.start("run", "--report", "tables")), watch(later.start("run", "--report", "tables"))]
    for run, trained in zip(runs, (1, 3), strict=True):
        assert run.end() == 0, run.output
        assert f"{trained} cells trained" in run.output
        assert "Traceback" not in run.output
    count("run of another spec version on the same store")
    store = Store(now.store)
    assert len(store.cell_ids()) == 4 + 3
    assert files(now.store, ours) == before
    for cell_id in store.cell_ids():
        assert [entry.kind for entry in claims.read_log(store, cell_id)] == ["claimed", "finished"]
        assert not store.names(cell_id, "damaged")
        assert not store.names(cell_id, "history")
    # The numbers are equal, because only the spec version differs.
    mine, theirs = ((each.folder / "tables" / "losses.csv").read_bytes() for each in (now, later))
    assert b"not run" not in mine + theirs
    again = Service(tmp_path / "again", profile=PROFILE, grid=GRID)
    again.environment |= {"PLD_GRID_STORE": str(now.store), "MLFLOW_TRACKING_URI": now.tracking_uri}
    again.run("report", "--out", "tables")
    assert (again.folder / "tables" / "losses.csv").read_bytes() == theirs
    # Neither has anything left to train, and the first results are unchanged.
    assert "Nothing to train: all 4 cells are finished." in now.run("run")[1]
    assert "Nothing to train: all 3 cells are finished." in later.run("run")[1]
    assert files(now.store, ours) == before
