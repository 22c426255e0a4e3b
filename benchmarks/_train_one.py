"""Train one cell in this process, as a shell script over cells would: `_train_one.py CELL.json STORE MACHINE`."""

import sys
from pathlib import Path

import torch

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.machine import MachineSettings
from pld_grid.train.cohort import train_cohort
from pld_grid.train.run_context import RunContext

if __name__ == "__main__":
    torch.set_num_threads(1)
    cell_file, store, machine = sys.argv[1:]
    context = RunContext(store=store, machine=MachineSettings.model_validate_json(machine))
    train_cohort([Cell.model_validate_json(Path(cell_file).read_text())], context)
