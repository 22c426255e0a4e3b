"""Code that runs inside a service's real processes: what breaks there, and where."""

import os
from collections.abc import Mapping
from pathlib import Path

from service import Service

# A module's code is run in its own namespace as soon as the module is loaded, in whichever process.
_SITE = """
import importlib.abc, importlib.util, sys

AFTER = {after!r}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        code = AFTER.pop(name, None)
        if code is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            exec(code, vars(module))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


class Sabotage:
    """What is broken in all processes that a service starts from now on, until `end`.

    Args:
        folder: for the code, and for what it leaves there (`SABOTAGE` in it); need not exist.
        after: code by the name of the module that it follows.
    """

    def __init__(self, service: Service, folder: Path, after: Mapping[str, str]) -> None:
        self.service, self.folder = service, folder
        folder.mkdir(exist_ok=True)
        told = {name: f"SABOTAGE = {str(folder)!r}\n{code}" for name, code in after.items()}
        (folder / "sitecustomize.py").write_text(_SITE.format(after=told))
        path = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
        service.environment["PYTHONPATH"] = os.pathsep.join(path)

    def end(self) -> None:
        """Nothing is broken any more."""
        (self.folder / "sitecustomize.py").unlink()
