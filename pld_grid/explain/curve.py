"""A learning curve in a few lines of text."""

from collections.abc import Sequence

from pld_grid.store import EpochRecord

COLUMNS = 10
WIDTH = 60
_BARS = "▁▂▃▄▅▆▇█"


def sampled(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 .. count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]


def sparkline(numbers: Sequence[float]) -> str:
    """Numbers as bars between their least and their greatest; equal numbers as the lowest bar."""
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0
    return "".join(_BARS[round((number - low) / span * (len(_BARS) - 1))] for number in numbers)


def curve(epochs: Sequence[EpochRecord], metric: str = "top1") -> list[str]:
    """A metric over epochs: its bars, and a line of epochs above a line of values, some of them if there are many."""
    known = [(epoch.epoch, epoch.metrics[metric]) for epoch in epochs if metric in epoch.metrics]
    if len(known) < 2:
        return []
    shown = [known[place] for place in sampled(len(known), COLUMNS)]
    texts = [(str(epoch), f"{value:.2f}") for epoch, value in shown]
    width = max(len(text) for pair in texts for text in pair)
    bars = sparkline([known[place][1] for place in sampled(len(known), WIDTH)])
    rows = ["  ".join(pair[side].rjust(width) for pair in texts) for side in (0, 1)]
    return [bars, f"epoch  {rows[0]}", f"top-1  {rows[1]}"]
