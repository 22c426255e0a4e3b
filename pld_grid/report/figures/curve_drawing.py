"""Learning curves as small multiples."""

from typing import TYPE_CHECKING, Any

from pld_grid.report.figures.canvas import GREY, SMALL, Figure, images, legend, looks, style
from pld_grid.report.figures.curves import Curves, Panel, curves_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 2.6, 2.2  # inches of a panel
DASHES = ("-", (0, (4, 1.5)))


def curves_figure(curves: Curves) -> Figure:
    """The picture of a table's learning curves."""
    from matplotlib.figure import Figure as Canvas

    panels = curves.drawn
    across = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    down = -(-len(panels) // across)
    together = len({tuple(line.name for line in panel.lines) for panel in panels}) == 1
    with style(math=False):
        size = (6.0, 3.4) if len(panels) == 1 else (0.4 + across * WIDTH, 0.5 + down * HEIGHT)
        canvas = Canvas(figsize=size)
        grid = canvas.subplots(down, across, sharey=True, squeeze=False)
        places = [axes for row in grid for axes in row]
        for axes, panel in zip(places, panels, strict=False):
            _draw(axes, panel)
            axes.set_title(panel.title or (panel.lines[0].name if len(panel.lines) == 1 else ""), fontsize=SMALL)
            missing = [line.name for line in panel.lines if not line.curves]
            if missing:
                said = "; ".join(missing) if len(missing) <= 2 else f"{len(missing)} lines"
                axes.text(1, 1, f"n/a: {said}", transform=axes.transAxes, fontsize=SMALL - 1, color=GREY, ha="right",
                          va="bottom")  # fmt: skip
            if not together and len(panel.lines) > 1:
                _legend(axes, panel)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        for row in grid:
            row[0].set_ylabel(curves.label)
        if curves.by_ratio:
            _by_ratio(places[0])
        canvas.supxlabel("Epoch", fontsize=9)
        if together:
            legend(canvas, places[0])
        svg, png = images(canvas)
    table = curves.table
    return Figure(
        curves_name(table), f"Learning curves: {table.title}", curves.caption, curves.alt, svg, png, curves.csv
    )


def _draw(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    chosen = _looks(panel)
    for line, (colour, dash) in zip(panel.lines, chosen, strict=True):
        epochs, means, low, high = zip(*line.band, strict=True) if line.band else ((), (), (), ())
        axes.plot(epochs, means, color=colour, linestyle=dash, linewidth=1.4, label=line.name)
        if len(line.curves) > 1:
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _by_ratio(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: "Axes", panel: Panel) -> None:
    """The panel's own legend; a header that all names begin with is its title."""
    handles, labels = axes.get_legend_handles_labels()
    heads = {label.partition("=")[0] for label in labels if "=" in label}
    title = heads.pop() if len(heads) == 1 and all("=" in label for label in labels) else None
    if title is not None:
        labels = [label.partition("=")[2] for label in labels]
    axes.legend(handles, labels, title=title, loc="lower right", ncols=2 if panel.shaded else 1, fontsize=SMALL,
                title_fontsize=SMALL, handlelength=2.2, columnspacing=1, labelspacing=0.3)  # fmt: skip


def _looks(panel: Panel) -> list[tuple[Any, Any]]:
    """Colour and dashes of each line."""
    if not panel.shaded:
        return [(look.colour, look.dash) for look in looks([line.name for line in panel.lines])]
    from matplotlib import colormaps

    shades = colormaps["cividis"]
    last = len(panel.lines) - 1
    return [(shades(0.9 * number / last), DASHES[number % len(DASHES)]) for number in range(last + 1)]
