"""Bad inputs: a file for each kind of them, found by its name. A new one is an entry in the `CASES` of its file."""

import importlib
import pkgutil

from front_door import Case


def kinds() -> dict[str, dict[str, Case]]:
    """All cases by kind and name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").CASES for name in names}
