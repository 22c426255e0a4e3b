"""All expected errors, as one tree.

PldGridError
├── InputError          the user's text is wrong: file, key path, what, nearest valid name  (exit code 2)
├── StoreError          the store cannot be read or written, or holds damaged data          (exit code 2)
│   └── StoreFull       it has no space left                                                (exit code 2)
├── ResourceError       the cluster can never satisfy the request                           (exit code 2)
├── TrackingError       MLflow could not be reached                                         (exit code 3)
└── CellsFailed         the grid ran, and some of its cells failed                          (exit code 1)
    └── WaveStopped     it was stopped, because its first cells all failed with one error   (exit code 1)

Every message is one line that a user can act on. Any other exception is a bug and keeps its traceback.
"""


class PldGridError(Exception):
    """Base of every error that the command line prints as one line."""

    exit_code = 2


class InputError(PldGridError):
    """Something that the user wrote (a grid, a profile, an option) is wrong."""


class StoreError(PldGridError):
    """The store cannot be used, or its data are damaged."""


class StoreFull(StoreError):
    """The store's disk or quota is full; its files are intact."""


class ResourceError(PldGridError):
    """The request can never be satisfied by the cluster at hand."""


class TrackingError(PldGridError):
    """MLflow could not be reached; the store keeps everything for a later `sync`."""

    exit_code = 3


class CellsFailed(PldGridError):
    """Some cells failed; the others are finished and kept."""

    exit_code = 1


class WaveStopped(CellsFailed):
    """The first cells all failed with the same error, so the rest was not tried."""
