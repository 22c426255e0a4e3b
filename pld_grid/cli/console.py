"""Where commands print."""

from rich.console import Console

errors = Console(stderr=True)
output = Console()
