"""How every figure looks, and how it becomes bytes that are equal for equal data.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers, dashes and hatches say the same again, so
that a figure reads in grey too.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DOTS_PER_INCH = 144
BLACK, GREY = "#000000", "#6e6e6e"


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
    Look("#444444", "X", (0, (1, 3)), "oo"),
    Look("#A6961A", "<", (0, (8, 2)), "--"),
)
# Losses keep their look in all figures.
_USUAL = ("PLD", "DIST", "KD", "CE", "LS", "ListMLE", "pListMLE", "DKD")


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
    upper = {usual.upper(): i for i, usual in enumerate(_USUAL)}
    return LOOKS[upper.get(name.upper(), place) % len(LOOKS)]


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for all figures; nothing outside the block changes."""
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "figure.dpi": DOTS_PER_INCH, "savefig.dpi": DOTS_PER_INCH, "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True,
        "axes.grid.axis": "y", "grid.color": "#d9d9d9", "grid.linewidth": 0.6, "lines.linewidth": 1.6,
        "lines.markersize": 5, "legend.frameon": False, "hatch.linewidth": 0.6, "svg.fonttype": "path",
        # Ids inside the file follow from its content, so equal data makes an equal file.
        "svg.hashsalt": "pld_grid",
    }  # fmt: skip
    everything: Any = {**mpl.rcParamsDefault, **settings, "backend": "agg"}
    with mpl.rc_context(everything):
        yield


def images(canvas: "Canvas") -> tuple[bytes, bytes]:
    """A drawn figure as SVG and PNG, without date or program version."""
    svg, png = io.BytesIO(), io.BytesIO()
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    canvas.savefig(png, format="png", metadata={"Software": None})
    return svg.getvalue(), png.getvalue()
