"""Results, checkpoints and claims of cells, on any file system that fsspec supports."""

from pld_grid.store.cells import KEPT_CHECKPOINTS, Store
from pld_grid.store.file_store import RETRY_TIMEOUT_SECONDS, sha256
from pld_grid.store.records import CellRecord
from pld_grid.store.schema import EpochRecord, Manifest, Mirror, Note, Provenance, Receipt, Status

__all__ = [
    "KEPT_CHECKPOINTS",
    "RETRY_TIMEOUT_SECONDS",
    "CellRecord",
    "EpochRecord",
    "Manifest",
    "Mirror",
    "Note",
    "Provenance",
    "Receipt",
    "Status",
    "Store",
    "sha256",
]
