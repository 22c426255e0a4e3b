"""Trains a cell in its own process, as a shell script over cells would: `_train_one.py CELL.json STORE MACHINE`."""

import sys
from pathlib import Path

import torch

from pld_grid.machine import MachineSettings
from pld_grid.spec import Cell
from pld_grid.train.cohort import train_cohort
from pld_grid.train.surroundings import Surroundings

if __name__ == "__main__":
    torch.set_num_threads(1)
    given, store, machine = sys.argv[1:]
    surroundings = Surroundings(store=store, machine=MachineSettings.model_validate_json(machine))
    train_cohort([Cell.model_validate_json(Path(given).read_text())], surroundings)
