"""What can go wrong, as one tree.

PldGridError
├── InputError          the user's text is wrong: file, key path, what, nearest valid name  (exit code 2)
├── StoreError          the store cannot be read or written, or holds damaged data          (exit code 2)
│   └── StoreFull       it has no room left                                                 (exit code 2)
├── ResourceError       the cluster can never satisfy the request                           (exit code 2)
├── TrackingError       MLflow could not be reached                                         (exit code 3)
└── CellsFailed         the grid ran, and some of its cells failed                          (exit code 1)
    └── WaveStopped     it was stopped, as all that it tried failed alike                   (exit code 1)

Every message is one line that a user can act on. Anything that is not in this tree is a bug of ours and
keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class PldGridError(Exception):
    """Base of every error that the command line prints as one line."""

    exit_code = 2


class InputError(PldGridError):
    """Something that the user wrote (a grid, a profile, a flag) is wrong."""


class StoreError(PldGridError):
    """The store cannot be used, or what it holds is damaged."""


class StoreFull(StoreError):
    """The store's disk or quota is full; what is in it is whole."""


class ResourceError(PldGridError):
    """The request can never be satisfied by the cluster at hand."""


class TrackingError(PldGridError):
    """MLflow could not be reached; what was not logged stays in the store."""

    exit_code = 3


class CellsFailed(PldGridError):
    """Some cells failed; the others are finished and kept."""

    exit_code = 1


class WaveStopped(CellsFailed):
    """What was tried first failed with one and the same error, so the rest was not."""


def nearest(name: object, valid: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the closest of `valid`, or an empty string if nothing is close."""
    names = sorted(valid)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.55)
    return f' (did you mean "{lowered[close[0]]}"?)' if close else ""


def listing(names: Iterable[str], limit: int = 12) -> str:
    """`a, b, c`, cut after `limit` names, for the "valid:" part of a message."""
    ordered = sorted(names)
    more = f", ... ({len(ordered) - limit} more)" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
