"""The style that all figures share, and files whose bytes are equal for equal data.

The colors are Okabe and Ito's, which color-blind readers can distinguish; markers, line styles and hatches repeat the
distinction, so that figures also read in grey.
"""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

BLACK, GREY = "#000000", "#6e6e6e"
SMALL_FONT_POINTS = 7.5


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn in every figure."""

    color: str
    marker: str
    linestyle: Any
    hatch: str


# Neighbours differ in lightness as well as in hue, so that they differ in grey.
STYLES = (
    SeriesStyle("#0072B2", "o", "-", ""),
    SeriesStyle("#E69F00", "s", (0, (5, 2)), "//"),
    SeriesStyle("#009E73", "^", (0, (1, 1)), ".."),
    SeriesStyle("#CC79A7", "D", (0, (5, 1, 1, 1)), "xx"),
    SeriesStyle("#56B4E9", "v", (0, (3, 1)), "\\\\"),
    SeriesStyle("#D55E00", "P", (0, (3, 1, 1, 1, 1, 1)), "++"),
    SeriesStyle("#444444", "X", (0, (2, 2)), "||"),
    SeriesStyle("#A6961A", "<", (0, (8, 2)), "--"),
)
# The losses that have the same style in all figures, in the order of STYLES.
_LOSSES = ("PLD", "DIST", "KD", "CE", "LS", "LISTMLE", "PLISTMLE", "DKD")


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Attributes:
        name: The stem of its files.
        caption: One or two sentences.
        alt: A description for readers who do not see the figure.
        csv: The data drawn.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    png: bytes
    csv: str

    @property
    def files(self) -> dict[str, bytes]:
        """The files by name."""
        return {f"{self.name}.svg": self.svg, f"{self.name}.png": self.png, f"{self.name}.csv": self.csv.encode()}


def assign_styles(names: Sequence[str]) -> list[SeriesStyle]:
    """Return the styles of series that are drawn together, all different for up to eight.

    The first name whose last loss is a usual one gets the style of that loss ("PLD − KD" that of KD). The others get
    the remaining styles from the end, where the rarest losses are.
    """
    indices: list[int | None] = []
    for name in names:
        losses = [_LOSSES.index(word) for word in re.findall(r"\w+", name.upper()) if word in _LOSSES]
        indices.append(losses[-1] if losses and losses[-1] not in indices else None)
    unused = [index for index in reversed(range(len(STYLES))) if index not in indices] or list(range(len(STYLES)))
    others = itertools.cycle(unused)
    return [STYLES[next(others) if index is None else index] for index in indices]


@contextmanager
def figure_style(math: bool = True) -> Iterator[None]:
    """Apply the settings of all figures inside the block, whatever the settings outside.

    Warnings of matplotlib (texts too long for the layout, letters that the font lacks, numbers near the end of their
    range) are ignored, as the picture shows their causes.

    Args:
        math: Whether `$...$` in texts is a formula; False for texts of users.
    """
    import matplotlib as mpl

    style = mpl.rc_params_from_file(Path(__file__).with_name("report.mplstyle"), use_default_template=False)
    everything: Any = {**mpl.rcParamsDefault, **style, "text.parse_math": math}
    # `rc_context` would not restore the caller's backend, for example a notebook's.
    del everything["backend"]
    with mpl.rc_context(everything), warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)
        yield


def render_figure(size: tuple[float, float], draw: Callable[["MplFigure"], None], **texts: str) -> Figure:
    """Return the figure of a given size in inches that `draw` draws, with its other fields as `texts`."""
    from matplotlib.figure import Figure as MplFigure

    with figure_style(math=False):
        canvas = MplFigure(figsize=size)
        draw(canvas)
        svg, png = render_images(canvas)
    return Figure(svg=svg, png=png, **texts)


def render_images(canvas: "MplFigure") -> tuple[bytes, bytes]:
    """Return a drawn figure as SVG and PNG, without date or program version."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    svg, png = io.BytesIO(), io.BytesIO()
    # `savefig` would compute the layout again for each file.
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    FigureCanvasAgg(canvas).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    FigureCanvasSVG(canvas).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return svg.getvalue(), png.getvalue()


def draw_bars(axes: "Axes", y: Sequence[Any], widths: Sequence[float], style: SeriesStyle, **options: Any) -> None:
    """Draw the horizontal bars of one series; `options` are `Axes.barh`'s."""
    axes.barh(y, widths, color=style.color, hatch=style.hatch, edgecolor="white", linewidth=0, **options)


def annotate_bar(axes: "Axes", text: str, end: float, y: float) -> None:
    """Write a bar's number beyond the bar's end."""
    offset, alignment = (-3, "right") if end < 0 else (3, "left")
    text = text.replace("-", "−")
    font: dict[str, Any] = {"fontsize": SMALL_FONT_POINTS, "ha": alignment, "va": "center"}
    axes.annotate(text, (end, y), (offset, 0), textcoords="offset points", **font)


def format_bar_axes(axes: "Axes") -> None:
    """Format axes of horizontal bars: a line at zero, no ticks at the names, room for numbers at the ends."""
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.28)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)


def add_legend(canvas: "MplFigure", axes: "Axes") -> None:
    """Add one legend above all axes, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # In inches: a letter is about 1/14 wide, a handle with its gaps 2/3.
        width = max(len(label) for label in labels) / 14 + 0.66
        columns = max(1, int(canvas.get_figwidth() / width))
        canvas.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.6)
