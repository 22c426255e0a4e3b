"""Two versions of what a cell is, side by side in one store."""

from pathlib import Path

import pytest
from counting import Count, Watch
from early import early
from service import PROFILE, Service

from pld_grid.spec import SPEC_VERSION
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

# The same code under the next number.
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
        if name != "pld_grid.spec":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Raised(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
"""


class Next(Service):
    """Another folder, whose processes are of the next spec version and keep their results in the same place."""

    def __init__(self, folder: Path, grid: str, beside: Service) -> None:
        super().__init__(folder, profile=PROFILE, grid=grid)
        self.environment |= early(folder / "early", RAISED)
        self.environment |= {"PLD_GRID_STORE": str(beside.store), "MLFLOW_TRACKING_URI": beside.tracking_uri}


def files(store: Path, cells: set[str]) -> dict[str, tuple[int, bytes]]:
    """The results of cells, with when they were written."""
    paths = [store / cell_id / name for cell_id in cells for name in ("receipt.json", "weights.safetensors")]
    paths += [path for cell_id in cells for path in (store / cell_id / claims.CLAIMS).iterdir()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths if path.exists()}


@pytest.fixture
def now(tmp_path: Path, database: Path) -> Service:
    return Service(tmp_path / "now", profile=PROFILE, grid=GRID, database=database)


def test_two_versions_keep_to_their_own_results(now: Service, tmp_path: Path, watch: Watch, count: Count) -> None:
    now.run("run")
    ours = set(now.receipts())
    assert len(ours) == 3
    before = files(now.store, ours)
    later = Next(tmp_path / "later", GRID, now)
    # What there is of an earlier version is said, and is no result.
    later.run("report", "--out", "tables")
    table = (later.folder / "tables" / "losses.md").read_text()
    assert "stale" in table
    assert not any(f"{receipt.metrics['top1']:.2f}" in table for receipt in now.receipts().values())
    # Both train at the same time, each its own.
    (now.folder / "losses.yaml").write_text(MORE)
    runs = [watch(now.start("run", "--report", "tables")), watch(later.start("run", "--report", "tables"))]
    for run, trained in zip(runs, (1, 3), strict=True):
        assert run.end() == 0, run.said
        assert f"{trained} cells trained" in run.said
        assert "Traceback" not in run.said
    count("run of another spec version on the same store")
    store = Store(now.store)
    assert len(store.cell_ids()) == 4 + 3
    assert files(now.store, ours) == before
    for cell_id in store.cell_ids():
        assert [entry.kind for entry in claims.entries(store, cell_id)] == ["claimed", "finished"]
        assert not store.names(cell_id, "damaged")
        assert not store.names(cell_id, "history")
    # The numbers are the same, as nothing but the number of the version differs.
    mine, theirs = ((each.folder / "tables" / "losses.csv").read_bytes() for each in (now, later))
    assert b"stale" not in mine + theirs
    again = Service(tmp_path / "again", profile=PROFILE, grid=GRID)
    again.environment |= {"PLD_GRID_STORE": str(now.store), "MLFLOW_TRACKING_URI": now.tracking_uri}
    again.run("report", "--out", "tables")
    assert (again.folder / "tables" / "losses.csv").read_bytes() == theirs
    # Neither has anything left to do, and neither has touched what was there.
    assert "Nothing to train: all 4 cells are finished." in now.run("run")[1]
    assert "Nothing to train: all 3 cells are finished." in later.run("run")[1]
    assert files(now.store, ours) == before
