"""Declared figures as pictures: lines with error bars, or bars from zero; ours on the left, the paper's beside it."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pld_grid.report.caption import MARK
from pld_grid.report.figures.canvas import (
    BLACK,
    GREY,
    SMALL,
    Figure,
    bar_axes,
    images,
    legend,
    looks,
    number_at,
    style,
)
from pld_grid.report.figures.declared import Plot, Series
from pld_grid.report.values import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 0.2  # inches
MAX_TICKS = 12


@dataclass(frozen=True)
class Point:
    """A number as drawn: `std` is 0 where there is none, `mean` None where the number is missing.

    `mark` follows the number where other code made it than most of the table.
    """

    x: str
    mean: float | None
    std: float
    format: str
    mark: str = ""


def declared_figure(plot: Plot) -> Figure:
    """The picture of a declared figure."""
    from matplotlib.figure import Figure as Canvas

    bars = plot.layout.kind == "bars"
    # Another experiment has another scale: numbers that must not be compared share no axis.
    same = plot.table.setting.as_in_paper
    with style(math=False):
        height = 1.1 + len(plot.places) * (len(plot.series) * BAR + 0.12) if bars else 3.2
        canvas = Canvas(figsize=(7.2 if plot.has_paper else 5.0, height))
        axes = canvas.subplots(
            1, 2 if plot.has_paper else 1, squeeze=False, sharex=bars and same, sharey=bars or same
        )[0]  # fmt: skip
        for panel, printed in zip(axes, (False, True), strict=False):
            setting = plot.table.setting
            title = f"paper: {setting.paper_dataset}" if printed else f"ours: {setting.dataset}"
            if not printed and any(named != run for named, run in setting.epochs.items()):
                title += f"\nepochs {setting.epochs_text}"
            panel.set_title(title, fontsize=9, color=GREY)
            (_bars if bars else _lines)(panel, plot, printed)
        legend(canvas, axes[0])
        svg, png = images(canvas)
    layout = plot.layout
    return Figure(layout.name, layout.title, plot.caption, plot.alt, svg, png, plot.csv)


def _points(series: Series, printed: bool) -> list[Point]:
    """What a panel shows of a series. What the paper does not print is not missing, and has no point."""
    if not printed:
        return [
            Point(m.x, m.value.mean, m.value.std or 0.0, m.value.format, MARK if m.value.other_version else "")
            for m in series.marks
        ]
    return [
        Point(m.x, float(m.value.paper), float(m.value.paper_std or 0), m.value.format)
        for m in series.marks
        if m.value.paper
    ]


def _lines(axes: "Axes", plot: Plot, printed: bool) -> None:
    shown = [_points(series, printed) for series in plot.series]
    places = sorted({float(point.x) for points in shown for point in points if point.x})
    beside = [number for number, points in enumerate(shown) if any(point.x for point in points)]
    step = _step(places, len(beside)) if any(point.std for points in shown for point in points) else 0.0
    missing: dict[float, list[str]] = {}
    for number, (series, points, look) in enumerate(zip(plot.series, shown, looks(plot.names), strict=True)):
        known = any(point.mean is not None for point in points)
        drawn: dict[str, Any] = {"color": look.colour, "label": series.name if known else f"{series.name} (n/a)"}
        on_axis = [point for point in points if point.x]
        if on_axis:
            aside = step * (beside.index(number) - (len(beside) - 1) / 2)
            xs = [float(point.x) + aside for point in on_axis]
            ys = [float("nan") if point.mean is None else point.mean for point in on_axis]
            axes.plot(xs, ys, marker=look.marker, linestyle=look.dash, markeredgecolor="white", **drawn)
            for x, point in zip(xs, on_axis, strict=True):
                if point.mean is None:
                    missing.setdefault(float(point.x), []).append(series.name)
                elif point.std:
                    axes.errorbar(
                        x, point.mean, yerr=point.std, fmt="none", capsize=2, elinewidth=1, ecolor=look.colour
                    )
        for point in points:
            if not point.x:
                axes.axhline(float("nan") if point.mean is None else point.mean, linestyle=look.dash, lw=1.2, **drawn)
    for x, names in missing.items():
        axes.text(x, 0.02, "\n".join([*names, "n/a"]), transform=axes.get_xaxis_transform(), fontsize=SMALL - 1,
                  ha="center", va="bottom", color=GREY)  # fmt: skip
    if missing:
        # Room for them below the lowest mark.
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.15 * (high - low), high)
    if len(places) <= MAX_TICKS:
        axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_xlabel(plot.layout.x)
    axes.set_ylabel(plot.label)


def _step(places: list[float], series: int) -> float:
    """How far series stand beside each other, so that their error bars do not cover one another."""
    gaps = [after - before for before, after in itertools.pairwise(places)]
    return min(0.012 * (places[-1] - places[0]), 0.3 * min(gaps) / series) if gaps else 0.0


def _bars(axes: "Axes", plot: Plot, printed: bool) -> None:
    width = 0.8 / len(plot.series)
    for number, (series, look) in enumerate(zip(plot.series, looks(plot.names), strict=True)):
        points = _points(series, printed)
        aside = (number - (len(plot.series) - 1) / 2) * width
        at = [plot.places.index(point.x) + aside for point in points]
        axes.barh(at, [point.mean or 0.0 for point in points], height=width * 0.92, color=look.colour,
                  hatch=look.hatch, edgecolor="white", linewidth=0, label=series.name)  # fmt: skip
        for y, point in zip(at, points, strict=True):
            if point.mean is None:
                number_at(axes, "n/a", 0.0, y)
                continue
            if point.std:
                axes.errorbar(point.mean, y, xerr=point.std, fmt="none", capsize=2, elinewidth=1, ecolor=BLACK)
            end = point.mean - point.std if point.mean < 0 else point.mean + point.std
            number_at(axes, fixed(point.mean, point.format, sign=plot.difference) + point.mark, end, y)
    axes.set_yticks(range(len(plot.places)), [place or "-" for place in plot.places])
    axes.set_ylim(len(plot.places) - 0.5, -0.5)
    bar_axes(axes)
    axes.set_xlabel(plot.label)
