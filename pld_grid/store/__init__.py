"""What is done, and with what result: receipts, checkpoints and claims, on any file system that fsspec reaches."""

from pld_grid.store.cells import KEPT_CHECKPOINTS, Store, is_cell_id
from pld_grid.store.content import (
    EpochRecord,
    Manifest,
    Mirror,
    Note,
    Progress,
    Provenance,
    Receipt,
    State,
    Status,
)
from pld_grid.store.files import PATIENCE, Files, sha256

__all__ = [
    "KEPT_CHECKPOINTS", "PATIENCE", "EpochRecord", "Files", "Manifest", "Mirror", "Note", "Progress", "Provenance",
    "Receipt", "State", "Status", "Store", "is_cell_id", "sha256",
]  # fmt: skip
