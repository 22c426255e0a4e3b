"""A laptop that submits to a cluster."""

import shutil
from pathlib import Path
from typing import NamedTuple

from early import GATED, Gate, early
from ray_cluster import TOKEN, RayCluster
from service import GRID, PATIENCE, Service, wait_for

from pld_grid import api
from pld_grid.store import Store


class Cohort(NamedTuple):
    """When the cells of a cohort were trained."""

    started: float
    ended: float

    def overlaps(self, other: "Cohort") -> bool:
        return self.started < other.ended and other.started < self.ended


class Submitter(Service):
    """A laptop's folder: submits to the cluster and keeps its results in a place that all nodes reach."""

    def __init__(self, folder: Path, cluster: RayCluster, database: Path, grid: str = GRID) -> None:
        super().__init__(folder, grid=grid)
        self.environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_API_SERVER_ADDRESS": cluster.dashboard,
            "PLD_GRID_STORE": str(folder / "shared"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'shared.db'}",
        }
        shutil.copy(database, folder / "shared.db")

    @property
    def store(self) -> Path:
        return self.folder / "shared"

    def submit(self, *arguments: str) -> str:
        """Submits the grid; the job's id."""
        out, _ = self.run("submit", *arguments)
        return out.split()[0]

    def gated(self, folder: Path, epoch: int) -> Gate:
        """How far the students train of what is submitted from now on: a grid that ends when it may is never too short.

        Args:
            folder: for the gate, which several laptops may share.
        """
        early(folder, GATED)
        # Workers begin in what was sent, and look for it there.
        run = f"import runpy; runpy.run_path({str(folder / 'sitecustomize.py')!r})\n"
        (self.folder / "sitecustomize.py").write_text(run)
        return Gate(folder, epoch)

    def stop(self, gate: Gate, epoch: int) -> str:
        """Stops the latest job, whose students wait at the gate and then train up to an epoch; what `stop` says."""
        process, store = self.start("stop"), Store(self.environment["PLD_GRID_STORE"])
        wait_for(process, lambda: store.names("stops"))
        gate.open(epoch)
        return process.communicate(timeout=PATIENCE)[0]

    def states(self) -> list[str]:
        """What became of the cells that have begun."""
        store = Store(self.store)
        return [found.state for cell in store.cell_ids() if (found := store.progress(cell)) is not None]

    def cohorts(self) -> list[Cohort]:
        """The cohorts of all finished cells."""
        store = Store(self.store)
        found: dict[tuple[float, ...], Cohort] = {}
        for receipt in (store.receipt(cell) for cell in store.cell_ids()):
            assert receipt is not None
            # Students of a cohort share the clock.
            rates = tuple(record.metrics["images_per_second"] for record in receipt.epochs)
            found[rates] = Cohort(receipt.provenance.started, receipt.provenance.ended)
        return list(found.values())

    def table(self) -> bytes:
        """The grid's table from the shared store."""
        grid = api.load_grid(self.folder / "losses.yaml", str(self.folder / "tiny.yaml"))
        out = self.folder / "tables"
        api.report([grid], out, api.Workspace(str(self.store), f"sqlite:///{self.folder / 'shared.db'}"))
        return (out / "losses.csv").read_bytes()
