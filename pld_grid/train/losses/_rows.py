"""Work on a few rows at a time, so that what is computed of them stays in a core's cache.

Shape suffixes: N samples of the micro-batch, C classes.
"""

# 256 KiB in float64. torch's own loops do not give a thread less than this either.
LOGITS_AT_ONCE = 1 << 15


def row_blocks(rows: int, classes: int, threads: int = 1) -> list[slice]:
    """Slices that cover ``range(rows)``, each of about LOGITS_AT_ONCE logits per thread and at least one row."""
    step = max(1, threads * LOGITS_AT_ONCE // classes)
    return [slice(start, start + step) for start in range(0, rows, step)]
