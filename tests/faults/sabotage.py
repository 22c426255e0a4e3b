"""Code that runs inside a service's real processes: what breaks there, and where."""

from collections.abc import Mapping
from pathlib import Path

from early import early
from service import Service


class Sabotage:
    """What is broken in all processes that a service starts from now on, until `end`.

    Args:
        folder: for the code, and for what it leaves there (`SABOTAGE` in it); need not exist.
        after: code by the name of the module that it follows, in whose namespace it runs.
    """

    def __init__(self, service: Service, folder: Path, after: Mapping[str, str]) -> None:
        self.service, self.folder = service, folder
        place = f"SABOTAGE = {str(folder)!r}\n"
        changes = (f"after_import({name!r}, lambda m: exec({place + code!r}, vars(m)))" for name, code in after.items())
        service.environment |= early(folder, *changes)

    def end(self) -> None:
        """Nothing is broken any more."""
        (self.folder / "sitecustomize.py").unlink()
