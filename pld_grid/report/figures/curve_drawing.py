"""Draw learning curves as small multiples."""

from typing import TYPE_CHECKING, Any

from pld_grid.report.figures.curve_data import Curves, Panel, name_curves
from pld_grid.report.figures.style import GREY, SMALL_FONT_POINTS, Figure, add_legend, assign_styles, render_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

PANEL_INCHES = (2.6, 2.2)
SWEEP_LINESTYLES = ("-", (0, (4, 1.5)))


def draw_curves(curves: Curves) -> Figure:
    """Draw a table's learning curves."""
    panels = curves.drawn_panels
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = -(-len(panels) // columns)
    shared_legend = len({tuple(line.name for line in panel.lines) for panel in panels}) == 1

    def draw(canvas: "MplFigure") -> None:
        grid = canvas.subplots(rows, columns, sharey=True, squeeze=False)
        all_axes = [axes for row in grid for axes in row]
        for axes, panel in zip(all_axes, panels, strict=False):
            _draw_panel(axes, panel)
            if not shared_legend and len(panel.lines) > 1:
                _add_panel_legend(axes, panel)
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        for row in grid:
            row[0].set_ylabel(curves.label)
        if curves.log_scale:
            _set_log_scale(all_axes[0])
        canvas.supxlabel("Epoch", fontsize=9)
        if shared_legend:
            add_legend(canvas, all_axes[0])

    width, height = PANEL_INCHES
    size = (6.0, 3.4) if len(panels) == 1 else (0.4 + columns * width, 0.5 + rows * height)
    title = f"Learning curves: {curves.table.title}"
    texts = {"caption": curves.caption, "alt": curves.alt, "csv": curves.csv}
    return render_figure(size, draw, name=name_curves(curves.table), title=title, **texts)


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    for line, (color, linestyle) in zip(panel.lines, _style_lines(panel), strict=True):
        epochs, means, low, high = zip(*line.band, strict=True) if line.band else ((), (), (), ())
        axes.plot(epochs, means, color=color, linestyle=linestyle, linewidth=1.4, label=line.name)
        if len(line.curves) > 1:
            axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    title = panel.title or (panel.lines[0].name if len(panel.lines) == 1 else "")
    axes.set_title(title, fontsize=SMALL_FONT_POINTS)
    missing = [line.name for line in panel.lines if not line.curves]
    if missing:
        text = f"n/a: {'; '.join(missing) if len(missing) <= 2 else f'{len(missing)} lines'}"
        font: dict[str, Any] = {"fontsize": SMALL_FONT_POINTS - 1, "color": GREY, "ha": "right", "va": "bottom"}
        axes.text(1, 1, text, transform=axes.transAxes, **font)


def _set_log_scale(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _add_panel_legend(axes: "Axes", panel: Panel) -> None:
    """Add the panel's own legend; a header that all names begin with becomes its title."""
    handles, labels = axes.get_legend_handles_labels()
    headers = {label.partition("=")[0] if "=" in label else "" for label in labels}
    title = headers.pop() if len(headers) == 1 else ""
    if title:
        labels = [label.partition("=")[2] for label in labels]
    fonts = {"fontsize": SMALL_FONT_POINTS, "title_fontsize": SMALL_FONT_POINTS}
    spacing = {"handlelength": 2.2, "columnspacing": 1, "labelspacing": 0.3}
    columns = 2 if panel.is_sweep else 1
    axes.legend(handles, labels, title=title or None, loc="lower right", ncols=columns, **fonts, **spacing)


def _style_lines(panel: Panel) -> list[tuple[Any, Any]]:
    """Return color and line style of each line."""
    if not panel.is_sweep:
        return [(style.color, style.linestyle) for style in assign_styles([line.name for line in panel.lines])]
    from matplotlib import colormaps

    shades = colormaps["cividis"]
    last = len(panel.lines) - 1
    return [(shades(0.9 * i / last), SWEEP_LINESTYLES[i % len(SWEEP_LINESTYLES)]) for i in range(last + 1)]
