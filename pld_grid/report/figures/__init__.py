"""Figures of a report, from records only: each as SVG, PNG and the data behind it as CSV."""

from collections.abc import Sequence

from pld_grid.grid import Grid
from pld_grid.records import Records
from pld_grid.report.figures.canvas import Figure
from pld_grid.report.figures.cost import cost_figure, cost_of
from pld_grid.report.figures.curve_drawing import curves_figure
from pld_grid.report.figures.curves import curves_of
from pld_grid.report.figures.declared import plots
from pld_grid.report.figures.drawing import declared_figure
from pld_grid.report.figures.markdown import figures_markdown
from pld_grid.report.table import Table

__all__ = ["Figure", "draw", "figures_markdown", "plots"]


def draw(grids: Sequence[Grid], tables: Sequence[Table], records: Records) -> list[Figure]:
    """All figures: those that the grids declare, each table's learning curves, and what sharing saved.

    A figure without any number of ours is left out. Raises InputError as `plots` does, and if two figures would have
    the same name.
    """
    pairs = list(zip(grids, tables, strict=True))
    found = sorted((plot for grid, table in pairs for plot in plots(grid, table)), key=lambda plot: plot.layout.name)
    figures = [declared_figure(plot) for plot in found if any(value.n for value in plot.values)]
    curves = [curves_of(grid, table, records) for grid, table in pairs]
    figures += [curves_figure(each) for each in curves if each is not None]
    cost = cost_of(tables, records)
    if cost is not None:
        figures.append(cost_figure(cost))
    return figures
