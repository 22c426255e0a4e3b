"""The folder's `README.md`: the figures, their construction, and checks of the paper's statements on many slices."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from pld_grid.paper.landscapes.figure import Landscape
from pld_grid.paper.landscapes.logit_slice import Slice
from pld_grid.paper.landscapes.loss_shapes import SliceShapes
from pld_grid.report.templating import render_markdown_page
from pld_grid.train.losses import Loss

Slices = Sequence[SliceShapes]
# The loss that the paper calls PLD has one of the measured temperatures.
_NAMES = {"PLD": "PLD, T = 1"}


def render_summary(
    on: Slice,
    losses: Mapping[str, Loss],
    compared: Sequence[Landscape],
    temperatures: Sequence[Landscape],
    slices: Slices,
) -> str:
    """Return the page.

    Args:
        on: The slice of the figures.
        losses: The losses of Figure 3 by name.
        compared: Their landscapes.
        temperatures: The landscapes of Figure 4.
        slices: The measurements on many slices.
    """
    groups: dict[int, list[SliceShapes]] = {}
    for each in sorted(slices, key=attrgetter("on.classes")):
        groups.setdefault(each.on.classes, []).append(each)
    functions = (measure, count_convex, measure_dip, count_smaller, measure_change, format_range, median)
    return render_markdown_page(
        "README.md.jinja",
        "pld_grid.paper.landscapes",
        on=on,
        losses=losses,
        compared=compared,
        temperatures=temperatures,
        groups=groups,
        seeds=sorted({each.on.seed for each in slices}),
        **{function.__name__: function for function in functions},
    )


def measure(slices: Slices, loss: str, quantity: str) -> npt.NDArray[Any]:
    """Return a quantity of a loss's shape on each slice."""
    return np.array([getattr(each.shapes[_NAMES.get(loss, loss)], quantity) for each in slices])


def count_convex(slices: Slices, loss: str) -> str:
    """Return on how many slices a loss is convex."""
    return f"{measure(slices, loss, 'convex').sum()} of {len(slices)}"


def measure_dip(slices: Slices, loss: str) -> str:
    """Return the curvature at the teacher over the mean curvature, the median over slices."""
    return f"{median(measure(slices, loss, 'curvature_at_teacher') / measure(slices, loss, 'mean_curvature')):.2g}"


def count_smaller(slices: Slices, quantity: str, loss: str, other: str) -> str:
    """Return on how many slices a quantity of one loss is smaller than another's."""
    return f"{(measure(slices, loss, quantity) < measure(slices, other, quantity)).sum()} of {len(slices)}"


def measure_change(slices: Slices, before: str, after: str) -> str:
    """Return the relative change of the mean curvature between two losses."""
    old, new = (measure(slices, loss, "mean_curvature") for loss in (before, after))
    return format_range(100 * (new / old - 1), "+.1f", " %")


def format_range(numbers: npt.NDArray[Any], spec: str, unit: str = "") -> str:
    """Return the median with the least and the greatest of the numbers."""
    return f"{median(numbers):{spec}}{unit} ({min(numbers):{spec}} to {max(numbers):{spec}})"
