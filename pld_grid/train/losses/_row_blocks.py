"""Blocks of rows that fit into a core's cache, for functions that make several passes over large logits."""

# 256 KiB in float64, which is also the least that torch's own loops give to a thread.
LOGITS_PER_BLOCK = 1 << 15


def row_blocks(rows: int, classes: int, threads: int = 1) -> list[slice]:
    """Return slices that cover ``range(rows)``: about LOGITS_PER_BLOCK logits per thread, at least one row each."""
    step = max(1, threads * LOGITS_PER_BLOCK // classes)
    return [slice(start, start + step) for start in range(0, rows, step)]
