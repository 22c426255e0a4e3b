"""Losses over a square of student logits: surfaces above contour maps, side by side (Figures 3 and 4).

The colour map is cividis, whose lightness changes evenly for colour-blind readers and in grey. Heights and colours are
losses above their minimum, so that shapes can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pld_grid.paper.landscapes.logit_slice import Array
from pld_grid.report.figures.style import BLACK, GREY, SMALL_FONT_POINTS, figure_style, render_images
from pld_grid.util.csv_text import csv_text

COLOURS = "cividis"
LEVELS = 9
# Quadrilaterals along a side of a surface; the outlines of more would cover the colours.
FACETS = 20


@dataclass(frozen=True)
class Landscape:
    """A loss on a grid: `values[j, i]` at (alpha, beta) = (steps[i], steps[j]).

    `lowest` is the least loss in the square, at `minimum`, which need not be a point of the grid.
    """

    name: str
    steps: Array
    values: Array
    minimum: tuple[float, float]
    lowest: float

    @property
    def heights(self) -> Array:
        """Losses above the lowest."""
        heights: Array = self.values - self.lowest
        return heights


def draw_landscapes(name: str, landscapes: Sequence[Landscape], *, shared: bool = False) -> dict[str, bytes]:
    """Draw a figure with a column per landscape, and return its files by name.

    Args:
        name: Stem of the figure's files.
        landscapes: The losses, all on the same grid.
        shared: Whether all have the same scale of heights.
    """
    # A refused command must not import matplotlib, which writes a font cache when it is imported first.
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    tops = [float(landscape.heights.max()) for landscape in landscapes]
    if shared:
        tops = [max(tops)] * len(tops)
    with figure_style():
        layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04, hspace=0.02, wspace=0.03)
        canvas = Canvas(figsize=(2.9 * len(landscapes), 6.0), layout=layout)
        rows = canvas.add_gridspec(2, len(landscapes), height_ratios=(1.0, 1.0))
        maps, fills = [], []
        for column, (landscape, top) in enumerate(zip(landscapes, tops, strict=True)):
            levels = MaxNLocator(LEVELS).tick_values(0, top)
            norm = mpl.colors.Normalize(0, levels[-1])
            _draw_surface(canvas.add_subplot(rows[0, column], projection="3d"), landscape, norm)
            maps.append(canvas.add_subplot(rows[1, column]))
            fills.append(_draw_contours(maps[-1], landscape, levels, norm))
            maps[-1].tick_params(labelleft=column == 0)
        maps[0].set_ylabel("β (logits along $d_2$)")
        shrink, aspect = (0.5, 60) if shared else (0.9, 30)
        for axes, fill in [(maps, fills[-1])] if shared else zip(maps, fills, strict=True):
            bar = canvas.colorbar(fill, ax=axes, location="bottom", shrink=shrink, aspect=aspect, pad=0.02)
            bar.set_ticks(fill.levels[::2], labels=[f"{level:g}" for level in fill.levels[::2]])
            bar.set_label("loss above its minimum")
            bar.outline.set_visible(False)
        canvas.legend(*maps[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, handletextpad=0.3)
        svg, png = render_images(canvas)
    return {f"{name}.svg": svg, f"{name}.png": png, f"{name}.csv": landscapes_csv(landscapes).encode()}


def landscapes_csv(landscapes: Sequence[Landscape]) -> str:
    """Format the losses, a line per point, with 12 digits, because further ones depend on the processor."""
    steps = landscapes[0].steps
    rows = [
        [f"{number:.12g}" for number in (alpha, beta, *(landscape.values[j, i] for landscape in landscapes))]
        for j, beta in enumerate(steps)
        for i, alpha in enumerate(steps)
    ]
    return csv_text(["alpha", "beta", *(landscape.name for landscape in landscapes)], rows)


def _draw_surface(axes: Any, landscape: Landscape, norm: Any) -> None:
    """Draw the loss as a height, seen from the front left."""
    alpha, beta = np.meshgrid(landscape.steps, landscape.steps)
    stride = max(1, (len(landscape.steps) - 1) // FACETS)
    facets: dict[str, Any] = {"rstride": stride, "cstride": stride, "edgecolor": (1, 1, 1, 0.3), "linewidth": 0.15}
    surface = axes.plot_surface(alpha, beta, landscape.heights, cmap=COLOURS, norm=norm, **facets)
    # As vectors, thousands of facets would take megabytes.
    surface.set_rasterized(True)
    axes.set_title(landscape.name, loc="center", pad=0)
    axes.view_init(elev=26, azim=-60)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.15)
    axes.set_xlabel("α", labelpad=-9)
    axes.set_ylabel("β", labelpad=-9)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_color(GREY)
    axes.tick_params(labelsize=SMALL_FONT_POINTS, pad=-3)
    axes.tick_params(axis="z", pad=1)
    ends = (landscape.steps[0], 0, landscape.steps[-1])
    axes.set(xticks=ends, yticks=ends, zlim=(0, norm.vmax))
    axes.locator_params(axis="z", nbins=4)
    axes.grid(False)


def _draw_contours(axes: Any, landscape: Landscape, levels: Any, norm: Any) -> Any:
    """Draw the loss from above and mark the teacher and the minimum; return the filled contours, for a colour bar."""
    fill = axes.contourf(landscape.steps, landscape.steps, landscape.heights, levels=levels, cmap=COLOURS, norm=norm)
    # As vectors, the filled contours would be large.
    fill.set_rasterized(True)
    # White on the dark half of the colour map, black on the light one.
    inks = ["white" if norm(level) < 0.5 else BLACK for level in levels]
    lines = axes.contour(
        landscape.steps, landscape.steps, landscape.heights, levels=levels, colors=inks, linewidths=0.6
    )
    axes.clabel(lines, fontsize=SMALL_FONT_POINTS, fmt="%g", inline_spacing=2)
    outline: dict[str, Any] = {"linestyle": "none", "markeredgecolor": BLACK, "markerfacecolor": "white", "zorder": 5}
    axes.plot(0, 0, "o", markersize=8, label="the teacher's logits (α = β = 0)", clip_on=False, **outline)
    axes.plot(*landscape.minimum, "X", markersize=7, label="the loss's minimum in the square", clip_on=False, **outline)
    axes.set_aspect("equal")
    alpha, beta = landscape.minimum
    text = f"minimum {landscape.lowest:.3f} at α = {alpha:z.2f}, β = {beta:z.2f}".replace("-", "\N{MINUS SIGN}")
    axes.set_title(text, loc="center", fontsize=8)
    axes.set_xlabel("α (logits along $d_1$)")
    axes.grid(False)
    return fill
