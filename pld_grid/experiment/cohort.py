"""Cells that train side by side."""

from dataclasses import dataclass, field, replace

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.machine import MachineSettings


@dataclass(frozen=True)
class Cohort:
    """Cells that see the same batches and the same teacher; one Ray trial trains them side by side."""

    cells: tuple[Cell, ...]
    machine: MachineSettings = field(default_factory=MachineSettings)

    @property
    def teacher(self) -> Cell | None:
        """The one teacher of the cohort; students without a teacher may be part of any cohort."""
        return next((cell.teacher for cell in self.cells if cell.teacher is not None), None)

    @property
    def epochs(self) -> int:
        """The number of epochs of the cell that trains longest."""
        return max(cell.epochs for cell in self.cells)

    def halves(self) -> "tuple[Cohort, Cohort]":
        """Return two cohorts of every other cell, for when this one does not fit into memory."""
        return replace(self, cells=self.cells[::2]), replace(self, cells=self.cells[1::2])
