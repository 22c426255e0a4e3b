"""Code that causes faults inside a service's real processes."""

from collections.abc import Mapping
from pathlib import Path

from cli_process import Service
from startup_code import write_startup_code


class FaultInjection:
    """Causes faults in all processes that a service starts from now on, until `end`.

    Args:
        service: The service.
        folder: Where the code is written and may write files, as `FAULT_FOLDER`; created if it does not exist.
        after: Code by the name of a module; it runs in the module's namespace after the import.
    """

    def __init__(self, service: Service, folder: Path, after: Mapping[str, str]) -> None:
        self.service, self.folder = service, folder
        constant = f"FAULT_FOLDER = {str(folder)!r}\n"
        changes = (
            f"after_import({name!r}, lambda m: exec({constant + code!r}, vars(m)))" for name, code in after.items()
        )
        service.environment |= write_startup_code(folder, *changes)

    def end(self) -> None:
        """Stop causing faults."""
        (self.folder / "sitecustomize.py").unlink()
