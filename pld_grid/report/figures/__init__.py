"""Figures of a report, from records only: each as SVG, PNG and the data behind it as CSV."""

from collections.abc import Sequence

from pld_grid.experiment.grid import Grid
from pld_grid.report.figures.cost_figure import COST_NAME, count_cost, draw_cost
from pld_grid.report.figures.curve_data import collect_curves, name_curves
from pld_grid.report.figures.curve_drawing import draw_curves
from pld_grid.report.figures.plot_data import Plot, build_plots
from pld_grid.report.figures.plot_drawing import draw_plot
from pld_grid.report.figures.style import Figure
from pld_grid.report.table import Table
from pld_grid.store.records import Records

__all__ = ["Figure", "build_all_plots", "draw_figures"]


def draw_figures(grids: Sequence[Grid], tables: Sequence[Table], records: Records) -> list[Figure]:
    """Draw the figures that the grids declare, by name, each table's learning curves, and what sharing saved.

    Figures without any number of this run are left out.

    Args:
        grids: The report's grids.
        tables: Their tables.
        records: The records of their cells.

    Raises:
        InputError: As `build_all_plots` does.
    """
    plots = [plot for plot in build_all_plots(grids, tables) if any(value.n for value in plot.values)]
    curves = [collect_curves(grid, table, records) for grid, table in zip(grids, tables, strict=True)]
    cost = count_cost(tables, records)
    figures = [draw_plot(plot) for plot in plots] + [draw_curves(each) for each in curves if each is not None]
    return [*figures, draw_cost(cost)] if cost is not None else figures


def build_all_plots(grids: Sequence[Grid], tables: Sequence[Table]) -> list[Plot]:
    """Return the data of the figures that the grids declare, by name; fast, so that errors show before any training.

    Raises:
        InputError: As `build_plots` does, or if two figures of the report would have the same name.
    """
    names = {COST_NAME, *(name_curves(table) for table in tables)}
    plots: list[Plot] = []
    for grid, table in zip(grids, tables, strict=True):
        for number, plot in enumerate(build_plots(grid, table)):
            name = plot.layout.name
            if name in names:
                at = ("table", "figures", number, "name")
                raise grid.document.error(at, f"another figure of the report is called {name}")
            names.add(name)
            plots.append(plot)
    return sorted(plots, key=lambda plot: plot.layout.name)
