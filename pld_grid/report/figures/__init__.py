"""Figures of a report, from records only: each as SVG, PNG and the data behind it as CSV."""

from collections.abc import Sequence

from pld_grid.grid import Grid
from pld_grid.records import Records
from pld_grid.report.figures.canvas import Figure
from pld_grid.report.figures.cost import COST, cost_figure, cost_of
from pld_grid.report.figures.curve_drawing import curves_figure
from pld_grid.report.figures.curves import curves_name, curves_of
from pld_grid.report.figures.declared import Plot, plots
from pld_grid.report.figures.drawing import declared_figure
from pld_grid.report.figures.markdown import figures_markdown
from pld_grid.report.table import Table

__all__ = ["Figure", "declared_plots", "draw", "figures_markdown"]


def draw(grids: Sequence[Grid], tables: Sequence[Table], records: Records) -> list[Figure]:
    """All figures: those that the grids declare, by name, each table's learning curves, and what sharing saved.

    A figure without any number of ours is left out. Raises InputError as `declared_plots` does.
    """
    figures = [declared_figure(plot) for plot in declared_plots(grids, tables) if any(value.n for value in plot.values)]
    pairs = zip(grids, tables, strict=True)
    curves = [curves_of(grid, table, records) for grid, table in pairs]
    figures += [curves_figure(each) for each in curves if each is not None]
    cost = cost_of(tables, records)
    return [*figures, cost_figure(cost)] if cost is not None else figures


def declared_plots(grids: Sequence[Grid], tables: Sequence[Table]) -> list[Plot]:
    """The data of the figures that the grids declare, by name; quick, so that mistakes are known before any training.

    Raises InputError as `plots` does, and if two figures of the report would have the same name.
    """
    taken = {COST, *(curves_name(table) for table in tables)}
    found: list[Plot] = []
    for grid, table in zip(grids, tables, strict=True):
        for number, plot in enumerate(plots(grid, table)):
            name = plot.layout.name
            if name in taken:
                at = ("table", "figures", number, "name")
                raise grid.document.error(at, f"another figure of the report is called {name}")
            taken.add(name)
            found.append(plot)
    return sorted(found, key=lambda plot: plot.layout.name)
