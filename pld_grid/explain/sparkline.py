"""Render a learning curve in a few lines of text."""

from collections.abc import Sequence

from pld_grid.experiment.metrics import TOP1
from pld_grid.store import EpochRecord

MAX_COLUMNS = 10
MAX_BARS = 60
_BARS = "▁▂▃▄▅▆▇█"


def sample_indices(count: int, limit: int) -> list[int]:
    """Return at most `limit` of the indices 0 .. count - 1, evenly spread, with the first and the last."""
    if count <= limit:
        return list(range(count))
    return [round(step * (count - 1) / (limit - 1)) for step in range(limit)]


def render_bars(numbers: Sequence[float]) -> str:
    """Return numbers as bars between their minimum and maximum; equal numbers as the lowest bar."""
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0
    return "".join(_BARS[round((number - low) / span * (len(_BARS) - 1))] for number in numbers)


def render_curve(epochs: Sequence[EpochRecord]) -> list[str]:
    """Return the top-1 accuracy: a line of bars, a line of epochs and a line of values, sampled if there are many."""
    known = [(epoch.epoch, epoch.metrics[TOP1.name]) for epoch in epochs if TOP1.name in epoch.metrics]
    if len(known) < 2:
        return []
    bars = render_bars([known[index][1] for index in sample_indices(len(known), MAX_BARS)])
    shown = [known[index] for index in sample_indices(len(known), MAX_COLUMNS)]
    texts = [[str(epoch) for epoch, _ in shown], [f"{value:{TOP1.spec}}" for _, value in shown]]
    width = max(len(text) for row in texts for text in row)
    rows = ["  ".join(text.rjust(width) for text in row) for row in texts]
    return [bars, f"epoch  {rows[0]}", f"{TOP1.short_label}  {rows[1]}"]
