"""Figures as a section of the report's first page."""

from collections.abc import Sequence

from pld_grid.report.figures.canvas import Figure
from pld_grid.report.markdown import escape

FOLDER = "figures"


def figures_markdown(figures: Sequence[Figure]) -> str:
    """The section, with links to the files in `figures/`; empty if there are none."""
    return "\n\n".join(["## Figures", *(_one(figure) for figure in figures)]) if figures else ""


def _one(figure: Figure) -> str:
    stem = f"{FOLDER}/{figure.name}"
    image = f"![{escape(figure.alt)}]({stem}.svg)"
    files = f"[SVG]({stem}.svg) · [PNG]({stem}.png) · [CSV]({stem}.csv)"
    return "\n\n".join([f"### {escape(figure.title)}", image, f"{escape(figure.caption)} {files}"])
