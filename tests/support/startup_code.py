"""Changes to the processes under test, as a `sitecustomize` that each of them, also Ray's workers, runs first."""

import os
from pathlib import Path

# Calls a function with a module after its import.
_AFTER_IMPORT = """
import importlib.abc, importlib.util, os, sys

HERE = os.path.dirname(__file__)


class After(importlib.abc.MetaPathFinder):
    def __init__(self, name, change):
        self.name, self.change, self.done = name, change, False

    def find_spec(self, name, path, target=None):
        if name != self.name or self.done:
            return None
        # Stays in the list, over which another thread may iterate.
        self.done = True
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


def after_import(name, change):
    sys.meta_path.insert(0, After(name, change))
"""

# Leases expire after a third of the time.
SHORT_LEASES = """
after_import("pld_grid.store.leases", lambda module: setattr(module, "LEASE_TTL_SECONDS", 15.0))
"""

# torch detects the death of a loader process after half a second; outside the main thread, where Ray runs trainings, it
# checks only every five seconds.
FAST_LOADER_CHECKS = """
def check_often(module):
    module._MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.5,)


after_import("torch.utils.data.dataloader", check_often)
"""

# A student that is about to start an epoch beyond the number in the file `gate` waits, and its cohort with it.
EPOCH_GATE = """
import time


def add_gate(module):
    begin = module.Student.begin_epoch

    def begin_epoch(student):
        while student.next_epoch > int(open(f"{HERE}/gate").read()):
            open(f"{HERE}/{student.cell.cell_id}.waits", "w").close()
            time.sleep(0.02)
        return begin(student)

    module.Student.begin_epoch = begin_epoch


after_import("pld_grid.train.student", add_gate)
"""


def write_startup_code(folder: Path, *changes: str, after: Path | None = None) -> dict[str, str]:
    """Write a `sitecustomize` with changes, after those in the folder `after`; return the environment that loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    before = (after / "sitecustomize.py").read_text() if after is not None else _AFTER_IMPORT
    (folder / "sitecustomize.py").write_text("\n".join([before, *changes]))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


class Gate:
    """Limits the epochs of students in processes whose `sitecustomize`, in this folder, contains EPOCH_GATE."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / "gate"
        self.open(epoch)

    def waiting(self) -> int:
        """Return how many cohorts have reached the gate."""
        return len(list(self.path.parent.glob("*.waits")))

    def open(self, epoch: int = 10**6) -> None:
        """Let students train up to the end of an epoch."""
        new = self.path.with_name("gate.new")
        new.write_text(str(epoch))
        new.replace(self.path)
