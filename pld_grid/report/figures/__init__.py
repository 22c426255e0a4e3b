"""Figures of a report, from records only: each as SVG, PNG and the data behind it as CSV."""

from pld_grid.report.figures.canvas import Figure

__all__ = ["Figure"]
