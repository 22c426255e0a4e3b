"""A laptop that submits jobs to a cluster."""

import shutil
from pathlib import Path
from typing import NamedTuple

from cli_process import GRID, RETRY_TIMEOUT_SECONDS, Service, wait_for
from ray_cluster import TOKEN, RayCluster
from startup_code import EPOCH_GATE, Gate, write_startup_code

from pld_grid.service import loading, report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store


class Cohort(NamedTuple):
    """The start and end of a cohort's training."""

    started: float
    ended: float

    def overlaps(self, other: "Cohort") -> bool:
        return self.started < other.ended and other.started < self.ended


class Submitter(Service):
    """A laptop's folder; it submits to the cluster and keeps results in a folder that all nodes share."""

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
        """Submit the grid; return the job's id."""
        out, _ = self.run("submit", *arguments)
        return out.split()[0]

    def add_gate(self, folder: Path, epoch: int) -> Gate:
        """Limit the epochs of students in later jobs, so that no grid ends too early for a test.

        Args:
            folder: The folder of the gate, which several laptops may share.
            epoch: The last epoch that students may train.
        """
        write_startup_code(folder, EPOCH_GATE)
        # Workers start in the submitted folder, and import it from there.
        run = f"import runpy; runpy.run_path({str(folder / 'sitecustomize.py')!r})\n"
        (self.folder / "sitecustomize.py").write_text(run)
        return Gate(folder, epoch)

    def stop(self, gate: Gate, epoch: int) -> str:
        """Stop the latest job while its students wait at the gate, then open the gate; return the output of `stop`."""
        process, store = self.start("stop"), Store(self.environment["PLD_GRID_STORE"])
        wait_for(process, lambda: store.names("stops"))
        gate.open(epoch)
        return process.communicate(timeout=RETRY_TIMEOUT_SECONDS)[0]

    def states(self) -> list[str]:
        """Return the states of the cells that have started."""
        store = Store(self.store)
        return [record.state for cell in store.cell_ids() if (record := store.record(cell)) is not None]

    def cohorts(self) -> list[Cohort]:
        """Return the cohorts of all finished cells."""
        store = Store(self.store)
        cohorts: dict[tuple[float, ...], Cohort] = {}
        for receipt in (store.receipt(cell) for cell in store.cell_ids()):
            # Students of a cohort have the same images per second.
            rates = tuple(record.metrics["images_per_second"] for record in receipt.epochs)
            cohorts[rates] = Cohort(receipt.provenance.started, receipt.provenance.ended)
        return list(cohorts.values())

    def table(self) -> bytes:
        """Return the grid's table from the shared store."""
        grid = loading.load_grid(self.folder / "losses.yaml", str(self.folder / "tiny.yaml"))
        out = self.folder / "tables"
        report_writer.write_report([grid], out, Workspace(str(self.store), f"sqlite:///{self.folder / 'shared.db'}"))
        return (out / "losses.csv").read_bytes()
