"""Changes to the processes under test: a `sitecustomize` that all of them, Ray's workers too, run before all else."""

import os
from pathlib import Path

# Calls a function with a module as soon as that has been imported.
_AFTER_IMPORT = """
import importlib.abc, importlib.util, os, sys

HERE = os.path.dirname(__file__)


class After(importlib.abc.MetaPathFinder):
    def __init__(self, name, change):
        self.name, self.change, self.found = name, change, False

    def find_spec(self, name, path, target=None):
        if name != self.name or self.found:
            return None
        # Not removed from the list, over which another thread may be going.
        self.found = True
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

# Who gives no sign of life is waited for a third of the time.
IMPATIENT = """
after_import("pld_grid.store.leases", lambda module: setattr(module, "LAPSED", 15.0))
"""

# That a loader's process has died is noticed after half a second. Where Ray has a training run, which is not the main
# thread, torch looks for that every five.
WATCHFUL = """
def watchful(module):
    module._MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.5,)


after_import("torch.utils.data.dataloader", watchful)
"""

# A student that is about to begin an epoch beyond the number in the file `gate` waits until it is larger, and with it
# its cohort.
GATED = """
import time


def gated(module):
    begin = module.Student.begin_epoch

    def begin_epoch(student):
        while student.next_epoch > int(open(f"{HERE}/gate").read()):
            open(f"{HERE}/{student.cell.cell_id}.waits", "w").close()
            time.sleep(0.02)
        return begin(student)

    module.Student.begin_epoch = begin_epoch


after_import("pld_grid.train.student", gated)
"""


def early(folder: Path, *changes: str, after: Path | None = None) -> dict[str, str]:
    """Writes a `sitecustomize` of these changes, after those in the folder `after`; the environment that brings it."""
    folder.mkdir(parents=True, exist_ok=True)
    before = (after / "sitecustomize.py").read_text() if after is not None else _AFTER_IMPORT
    (folder / "sitecustomize.py").write_text("\n".join([before, *changes]))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


class Gate:
    """How far students may train in processes whose `sitecustomize`, in this folder, has GATED."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / "gate"
        self.open(epoch)

    def waiting(self) -> int:
        """How many cohorts have come to it so far."""
        return len(list(self.path.parent.glob("*.waits")))

    def open(self, epoch: int = 10**6) -> None:
        """Lets them train up to the end of an epoch."""
        new = self.path.with_name("gate.new")
        new.write_text(str(epoch))
        new.replace(self.path)
