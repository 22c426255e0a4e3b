"""The code version that computed a result: the commit in its receipt, shortened for captions."""

from collections import Counter
from collections.abc import Iterable

from pld_grid.store.records import CellRecord

LENGTH = 10  # characters of a shortened commit
UNKNOWN = "unknown"
# Marks a number that a version other than the table's main version computed, at least in part.
VERSION_MARK = "†"
_DIRTY = "-dirty"


def shorten_commit(commit: str) -> str:
    """Return the first characters of a commit, with `-dirty` if files differed from it; `unknown` if it is empty."""
    short = commit.removesuffix(_DIRTY)[:LENGTH] or UNKNOWN
    return short + _DIRTY if is_dirty(commit) else short


def is_dirty(version: str) -> bool:
    """Return whether the working tree had uncommitted changes."""
    return version.endswith(_DIRTY)


def describe_version(version: str) -> str:
    """Return a version in words: `commit 0123abc456 (had uncommitted changes)`."""
    if version == UNKNOWN:
        return "an unknown commit"
    return f"commit {version.removesuffix(_DIRTY)}" + (" (had uncommitted changes)" if is_dirty(version) else "")


def count_versions(records: Iterable[CellRecord]) -> dict[str, int]:
    """Return how many finished cells each version computed, sorted by descending count, then by name."""
    counts = Counter(shorten_commit(record.commit) for record in records if record.state == "finished")
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
