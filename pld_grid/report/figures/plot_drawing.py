"""Draw declared figures: lines with error bars, or bars from zero; ours on the left, the paper's on the right."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pld_grid.report.code_versions import VERSION_MARK
from pld_grid.report.figures.plot_data import Plot, Series
from pld_grid.report.figures.style import (
    BLACK,
    GREY,
    SMALL_FONT_POINTS,
    Figure,
    SeriesStyle,
    add_legend,
    annotate_bar,
    assign_styles,
    draw_bars,
    format_bar_axes,
    render_figure,
)
from pld_grid.report.value_text import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

BAR_INCHES = 0.2
MAX_TICKS = 12


@dataclass(frozen=True)
class _Mark:
    """A number as drawn: `mean` is None if it is missing, `suffix` marks a number from another version of the code."""

    x: str
    mean: float | None
    std: float
    format: str
    suffix: str = ""


def draw_plot(plot: Plot) -> Figure:
    """Draw a declared figure."""
    bars = plot.layout.kind == "bars"
    # Numbers of another experiment have another scale: they must not be compared, so they share no axis.
    shared = plot.table.setting.matches_paper

    def draw(canvas: "MplFigure") -> None:
        panels = 2 if plot.has_paper else 1
        ((*axes,),) = canvas.subplots(1, panels, squeeze=False, sharex=bars and shared, sharey=bars or shared)
        for panel, printed in zip(axes, (False, True), strict=False):
            panel.set_title(_format_title(plot, printed), fontsize=9, color=GREY)
            marks = {name: _list_marks(series, printed) for name, series in plot.series.items()}
            (_draw_bars if bars else _draw_lines)(panel, plot, marks)
        add_legend(canvas, axes[0])

    height = 1.1 + len(plot.x_values) * (len(plot.series) * BAR_INCHES + 0.12) if bars else 3.2
    size = (7.2 if plot.has_paper else 5.0, height)
    texts = {"caption": plot.caption, "alt": plot.alt, "csv": plot.csv}
    return render_figure(size, draw, name=plot.layout.name, title=plot.layout.title, **texts)


def _format_title(plot: Plot, printed: bool) -> str:
    setting = plot.table.setting
    if printed:
        return f"paper: {setting.paper_dataset}"
    epochs_differ = any(paper != run for paper, run in setting.epochs.items())
    return f"ours: {setting.dataset}" + (f"\nepochs {setting.epochs_text}" if epochs_differ else "")


def _list_marks(series: Series, printed: bool) -> list[_Mark]:
    """Return the marks of a series; the paper's numbers are not missing where it prints none."""
    if printed:
        return [
            _Mark(x, float(value.paper), float(value.paper_std or 0), value.format)
            for x, value in series.items()
            if value.paper
        ]
    return [
        _Mark(x, value.mean, value.std or 0.0, value.format, VERSION_MARK if value.from_other_version else "")
        for x, value in series.items()
    ]


def _draw_lines(axes: "Axes", plot: Plot, marks: dict[str, list[_Mark]]) -> None:
    x_values = sorted({float(mark.x) for series in marks.values() for mark in series if mark.x})
    lines = [name for name, series in marks.items() if any(mark.x for mark in series)]
    has_errors = any(mark.std for series in marks.values() for mark in series)
    step = _choose_step(x_values, len(lines)) if has_errors else 0.0
    missing: dict[float, list[str]] = {}
    for (name, series), style in zip(marks.items(), assign_styles(list(marks)), strict=True):
        known = any(mark.mean is not None for mark in series)
        options: dict[str, Any] = {"color": style.color, "label": name if known else f"{name} (n/a)"}
        if name in lines:
            offset = step * (lines.index(name) - (len(lines) - 1) / 2)
            _draw_line(axes, [mark for mark in series if mark.x], offset, style, options)
        for mark in series:
            if not mark.x:
                y = float("nan") if mark.mean is None else mark.mean
                axes.axhline(y, linestyle=style.linestyle, lw=1.2, **options)
            elif mark.mean is None:
                missing.setdefault(float(mark.x), []).append(name)
    _name_missing(axes, missing)
    if len(x_values) <= MAX_TICKS:
        axes.set_xticks(x_values, [f"{x:g}" for x in x_values])
    axes.set_xlabel(plot.layout.x)
    axes.set_ylabel(plot.label)


def _draw_line(
    axes: "Axes", marks: Sequence[_Mark], offset: float, style: SeriesStyle, options: dict[str, Any]
) -> None:
    """Draw a line with error bars, which a missing number interrupts."""
    xs = [float(mark.x) + offset for mark in marks]
    ys = [float("nan") if mark.mean is None else mark.mean for mark in marks]
    axes.plot(xs, ys, marker=style.marker, linestyle=style.linestyle, markeredgecolor="white", **options)
    for x, mark in zip(xs, marks, strict=True):
        if mark.mean is not None and mark.std:
            axes.errorbar(x, mark.mean, yerr=mark.std, fmt="none", capsize=2, elinewidth=1, ecolor=style.color)


def _name_missing(axes: "Axes", missing: dict[float, list[str]]) -> None:
    """Write the names of missing numbers below the lowest mark."""
    font: dict[str, Any] = {"fontsize": SMALL_FONT_POINTS - 1, "ha": "center", "va": "bottom", "color": GREY}
    for x, names in missing.items():
        axes.text(x, 0.02, "\n".join([*names, "n/a"]), transform=axes.get_xaxis_transform(), **font)
    if missing:
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.15 * (high - low), high)


def _choose_step(x_values: list[float], series: int) -> float:
    """Return the horizontal offset between series that keeps their error bars from covering one another."""
    gaps = [after - before for before, after in itertools.pairwise(x_values)]
    return min(0.012 * (x_values[-1] - x_values[0]), 0.3 * min(gaps) / series) if gaps else 0.0


def _draw_bars(axes: "Axes", plot: Plot, marks: dict[str, list[_Mark]]) -> None:
    height = 0.8 / len(plot.series)
    styles = assign_styles(list(marks))
    for number, ((name, series), style) in enumerate(zip(marks.items(), styles, strict=True)):
        offset = (number - (len(plot.series) - 1) / 2) * height
        ys = [plot.x_values.index(mark.x) + offset for mark in series]
        draw_bars(axes, ys, [mark.mean or 0.0 for mark in series], style, height=height * 0.92, label=name)
        for y, mark in zip(ys, series, strict=True):
            if mark.mean is None:
                annotate_bar(axes, "n/a", 0.0, y)
                continue
            if mark.std:
                axes.errorbar(mark.mean, y, xerr=mark.std, fmt="none", capsize=2, elinewidth=1, ecolor=BLACK)
            end = mark.mean - mark.std if mark.mean < 0 else mark.mean + mark.std
            annotate_bar(axes, format_number(mark.mean, mark.format, sign=plot.is_difference) + mark.suffix, end, y)
    axes.set_yticks(range(len(plot.x_values)), [x or "-" for x in plot.x_values])
    axes.set_ylim(len(plot.x_values) - 0.5, -0.5)
    format_bar_axes(axes)
    axes.set_xlabel(plot.label)
