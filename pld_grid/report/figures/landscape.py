"""A loss over a square of student logits: its surface above its contours, losses side by side (Figures 3 and 4).

Colours are cividis', which darken evenly for every eye and in grey. Heights and colours are losses above their minimum,
so that what is compared is the shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pld_grid.csvtext import csv_text
from pld_grid.report.figures.canvas import BLACK, GREY, SMALL, Figure, images, style

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

COLOURS = "cividis"
LEVELS = 9
# Quadrilaterals along a side of a drawn surface: with more, their outlines cover the colours.
FACETS = 20


@dataclass(frozen=True)
class Landscape:
    """A loss on a grid: `values[j, i]` at (alpha, beta) = (steps[i], steps[j]).

    `least` is the least loss in the square, at `minimum`, which need not be a point of the grid.
    """

    name: str
    steps: "Array"
    values: "Array"
    minimum: tuple[float, float]
    least: float

    @property
    def heights(self) -> "Array":
        """Losses above the least."""
        heights: Array = self.values - self.least
        return heights


def landscape_figure(
    name: str, title: str, caption: str, alt: str, landscapes: Sequence[Landscape], *, shared: bool
) -> Figure:
    """A figure with a column per landscape, all on the same grid; `shared` gives them one scale of heights."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    tops = [float(landscape.heights.max()) for landscape in landscapes]
    if shared:
        tops = [max(tops)] * len(tops)
    with style():
        layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04, hspace=0.02, wspace=0.03)
        canvas = Canvas(figsize=(2.9 * len(landscapes), 6.0), layout=layout)
        rows = canvas.add_gridspec(2, len(landscapes), height_ratios=(1.0, 1.0))
        flats, fills = [], []
        for column, (landscape, top) in enumerate(zip(landscapes, tops, strict=True)):
            levels = MaxNLocator(LEVELS).tick_values(0, top)
            norm = mpl.colors.Normalize(0, levels[-1])
            raised = canvas.add_subplot(rows[0, column], projection="3d")
            _surface(raised, landscape, norm)
            flat = canvas.add_subplot(rows[1, column])
            fills.append(_contours(flat, landscape, levels, norm))
            flats.append(flat)
            if column:
                flat.tick_params(labelleft=False)
            else:
                flat.set_ylabel("β (logits along $d_2$)")
        shrink, aspect = (0.5, 60) if shared else (0.9, 30)
        for axes, fill in [(flats, fills[-1])] if shared else zip(flats, fills, strict=True):
            bar = canvas.colorbar(fill, ax=axes, location="bottom", shrink=shrink, aspect=aspect, pad=0.02)
            bar.set_ticks(fill.levels[::2], labels=[f"{level:g}" for level in fill.levels[::2]])
            bar.set_label("loss above its minimum")
            bar.outline.set_visible(False)
        canvas.legend(*flats[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, handletextpad=0.3)
        svg, png = images(canvas)
    return Figure(name, title, caption, alt, svg, png, landscapes_csv(landscapes))


def landscapes_csv(landscapes: Sequence[Landscape]) -> str:
    """The losses themselves, a line per point, with 12 digits: the last ones differ between processors."""
    rows = []
    steps = landscapes[0].steps
    for j, beta in enumerate(steps):
        for i, alpha in enumerate(steps):
            losses = (landscape.values[j, i] for landscape in landscapes)
            rows.append([f"{number:.12g}" for number in (alpha, beta, *losses)])
    return csv_text(["alpha", "beta", *(landscape.name for landscape in landscapes)], rows)


def _surface(axes: Any, landscape: Landscape, norm: Any) -> None:
    """The loss as a height, seen from the front left."""
    import numpy as np

    alpha, beta = np.meshgrid(landscape.steps, landscape.steps)
    stride = max(1, (len(landscape.steps) - 1) // FACETS)
    surface = axes.plot_surface(
        alpha, beta, landscape.heights, cmap=COLOURS, norm=norm, rstride=stride, cstride=stride,
        edgecolor=(1, 1, 1, 0.3), linewidth=0.15,
    )  # fmt: skip
    # Thousands of facets as vectors would make megabytes.
    surface.set_rasterized(True)
    axes.set_title(landscape.name, loc="center", pad=0)
    axes.set_zlim(0, norm.vmax)
    axes.view_init(elev=26, azim=-60)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.15)
    axes.set_xlabel("α", labelpad=-9)
    axes.set_ylabel("β", labelpad=-9)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_color(GREY)
    axes.tick_params(labelsize=SMALL, pad=-3)
    axes.tick_params(axis="z", pad=1)
    ends = (landscape.steps[0], 0, landscape.steps[-1])
    axes.set_xticks(ends)
    axes.set_yticks(ends)
    axes.locator_params(axis="z", nbins=4)
    axes.grid(False)


def _contours(axes: Any, landscape: Landscape, levels: Any, norm: Any) -> Any:
    """The same from above, with the teacher and the minimum marked; the filled contours, for a colour bar."""
    fill = axes.contourf(landscape.steps, landscape.steps, landscape.heights, levels=levels, cmap=COLOURS, norm=norm)
    # Their outlines as vectors are large, and are hidden below the lines.
    fill.set_rasterized(True)
    # White on the dark half of the colours, black on the light one.
    inks = ["white" if norm(level) < 0.5 else BLACK for level in levels]
    lines = axes.contour(
        landscape.steps, landscape.steps, landscape.heights, levels=levels, colors=inks, linewidths=0.6
    )
    axes.clabel(lines, fontsize=SMALL, fmt="%g", inline_spacing=2)
    outline: dict[str, Any] = {"linestyle": "none", "markeredgecolor": BLACK, "markerfacecolor": "white", "zorder": 5}
    axes.plot(0, 0, "o", markersize=8, label="the teacher's logits (α = β = 0)", clip_on=False, **outline)
    axes.plot(*landscape.minimum, "X", markersize=7, label="the loss's minimum in the square", clip_on=False, **outline)
    axes.set_aspect("equal")
    alpha, beta = landscape.minimum
    text = f"minimum {landscape.least:.3f} at α = {alpha:z.2f}, β = {beta:z.2f}".replace("-", "\N{MINUS SIGN}")
    axes.set_title(text, loc="center", fontsize=8)
    axes.set_xlabel("α (logits along $d_1$)")
    axes.grid(False)
    return fill
