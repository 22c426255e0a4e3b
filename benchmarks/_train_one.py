"""Trains one cell in a process of its own, as a shell script over cells would: `_train_one.py CELL.json STORE`."""

import sys
from pathlib import Path

import torch

from pld_grid.spec import Cell
from pld_grid.train.cohort import Surroundings, train_cohort

if __name__ == "__main__":
    torch.set_num_threads(1)
    train_cohort([Cell.model_validate_json(Path(sys.argv[1]).read_text())], Surroundings(store=sys.argv[2]))
