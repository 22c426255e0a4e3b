"""Bad inputs: a module for each kind of them, found by its name, with its `CASES`.

Most cases are data: `grids.yaml` has the arguments of the functions in `grids.py` that make cases. A new case is
an entry there, or in the `CASES` of the module if it is bytes, too long for a file, or needs more than files.
"""

import importlib
import pkgutil
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from error_cases import Case


def plain(command: str | list[str], message: str, *fields: Any, **more: Any) -> Case:
    """Return a case of a command line, as text or as its words, with the other fields of `Case`."""
    return Case(tuple(shlex.split(command) if isinstance(command, str) else command), message, *fields, **more)


def load_cases(module: str, *makers: Callable[..., Case]) -> dict[str, Case]:
    """Return the cases of the YAML file beside a module, each made by its `maker` or else the first of `makers`."""
    by_name = {maker.__name__: maker for maker in makers}
    entries: dict[str, dict[str, Any]] = yaml.safe_load(Path(module).with_suffix(".yaml").read_text())
    return {name: by_name[entry.pop("maker", makers[0].__name__)](**entry) for name, entry in entries.items()}


def kinds() -> dict[str, dict[str, Case]]:
    """All cases by kind and name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").CASES for name in names}
