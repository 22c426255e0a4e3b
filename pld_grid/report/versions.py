"""Which code made a result: the commit that its receipt names, short enough for a caption."""

from collections import Counter
from collections.abc import Iterable

from pld_grid.records import Record

LENGTH = 10
UNKNOWN = "unknown"
_DIRTY = "-dirty"


def version_of(commit: str) -> str:
    """The first characters of a commit, with `-dirty` if files differed from it; `unknown` where there is none."""
    short = commit.removesuffix(_DIRTY)[:LENGTH] or UNKNOWN
    return short + _DIRTY if is_dirty(commit) else short


def is_dirty(version: str) -> bool:
    """Whether files differed from the commit."""
    return version.endswith(_DIRTY)


def version_text(version: str) -> str:
    """A version for people: `commit 0123abc456 (had uncommitted changes)`."""
    if version == UNKNOWN:
        return "an unknown commit"
    return f"commit {version.removesuffix(_DIRTY)}" + (" (had uncommitted changes)" if is_dirty(version) else "")


def count_versions(records: Iterable[Record]) -> dict[str, int]:
    """How many finished cells each version made, the most frequent first, equally frequent ones by name."""
    counts = Counter(version_of(record.commit) for record in records if record.state == "finished")
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
