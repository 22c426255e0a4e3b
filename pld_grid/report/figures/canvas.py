"""How every figure looks, and how it becomes bytes that are equal for equal data.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers, dashes and hatches say the same again, so
that a figure reads in grey too.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

DOTS_PER_INCH = 144
BLACK, GREY = "#000000", "#6e6e6e"
SMALL = 7.5  # points, of what stands inside the axes


@dataclass(frozen=True)
class Look:
    """How one series is drawn wherever it appears."""

    colour: str
    marker: str
    dash: Any
    hatch: str


# By lightness as well as by hue: neighbours differ in grey.
LOOKS = (
    Look("#0072B2", "o", "-", ""),
    Look("#E69F00", "s", (0, (5, 2)), "//"),
    Look("#009E73", "^", (0, (1, 1)), ".."),
    Look("#CC79A7", "D", (0, (5, 1, 1, 1)), "xx"),
    Look("#56B4E9", "v", (0, (3, 1)), "\\\\"),
    Look("#D55E00", "P", (0, (3, 1, 1, 1, 1, 1)), "++"),
    Look("#444444", "X", (0, (2, 2)), "||"),
    Look("#A6961A", "<", (0, (8, 2)), "--"),
)
# Losses keep their look in all figures.
_USUAL = ("PLD", "DIST", "KD", "CE", "LS", "ListMLE", "pListMLE", "DKD")
_PLACES = {name.upper(): place for place, name in enumerate(_USUAL)}


@dataclass(frozen=True)
class Figure:
    """A finished figure: `name` is its files' stem, `caption` one or two sentences, `csv` the data drawn.

    `alt` says in words what is seen, for those who do not see it.
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
        """Its files by name."""
        return {f"{self.name}.svg": self.svg, f"{self.name}.png": self.png, f"{self.name}.csv": self.csv.encode()}


def look(name: str, place: int) -> Look:
    """The look of a series: its own where the name is a usual loss, else the one of its place."""
    return LOOKS[_PLACES.get(name.upper(), place) % len(LOOKS)]


def looks(names: Sequence[str]) -> list[Look]:
    """The looks of series drawn together, all different for up to eight.

    The first name in which a usual loss is the last has that loss's look ("PLD − KD" is KD's); the others get what is
    left, from the end, where the rarest losses are.
    """
    places: list[int | None] = []
    for name in names:
        words = [_PLACES[word.upper()] for word in re.findall(r"\w+", name) if word.upper() in _PLACES]
        places.append(words[-1] if words and words[-1] not in places else None)
    free = [place for place in reversed(range(len(LOOKS))) if place not in places] or list(range(len(LOOKS)))
    rest = itertools.cycle(free)
    return [LOOKS[next(rest) if place is None else place] for place in places]


@contextmanager
def style(math: bool = True) -> Iterator[None]:
    """matplotlib's settings for all figures; nothing outside the block changes.

    Without `math`, a dollar is a dollar: right for texts that somebody else wrote. What matplotlib warns of (texts that
    leave no room, letters that its font lacks, numbers near the end of their range) shows in the picture.
    """
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "figure.dpi": DOTS_PER_INCH, "savefig.dpi": DOTS_PER_INCH, "figure.constrained_layout.use": True,
        "figure.constrained_layout.wspace": 0.06,
        "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True,
        "axes.grid.axis": "y", "grid.color": "#d9d9d9", "grid.linewidth": 0.6, "lines.linewidth": 1.6,
        "lines.markersize": 5, "legend.frameon": False, "hatch.linewidth": 0.6, "svg.fonttype": "path",
        "text.parse_math": math,
        # Ids inside the file follow from its content, so equal data makes an equal file.
        "svg.hashsalt": "pld_grid",
    }  # fmt: skip
    everything: Any = {**mpl.rcParamsDefault, **settings, "backend": "agg"}
    with mpl.rc_context(everything), warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("ignore", kind)
        yield


def bar_axes(axes: "Axes") -> None:
    """Axes of horizontal bars: zero is where they begin, names have no ticks, numbers have room at the ends."""
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.28)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)


def number_at(axes: "Axes", text: str, end: float, y: float) -> None:
    """A bar's number, beyond the bar's end."""
    aside, aligned = (-3, "right") if end < 0 else (3, "left")
    axes.annotate(text.replace("-", "−"), (end, y), (aside, 0), textcoords="offset points", ha=aligned, va="center",
                  fontsize=SMALL)  # fmt: skip


def legend(canvas: "Canvas", axes: "Axes") -> None:
    """One legend above all axes, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # A letter is about a fourteenth of an inch wide, a handle with its gaps two thirds.
        width = max(len(label) for label in labels) / 14 + 0.66
        columns = max(1, int(canvas.get_figwidth() / width))
        canvas.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.6)


def images(canvas: "Canvas") -> tuple[bytes, bytes]:
    """A drawn figure as SVG and PNG, without date or program version."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    svg, png = io.BytesIO(), io.BytesIO()
    # The layout is found once; `savefig` would draw twice for each file to find out about it.
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    FigureCanvasAgg(canvas).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    FigureCanvasSVG(canvas).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return svg.getvalue(), png.getvalue()
