"""Reports: records x table layout x paper -> tables, as CSV, Markdown and on the terminal. No torch, Ray or MLflow."""

from pld_grid.report.check import Difference, check
from pld_grid.report.frozen import Origin, load
from pld_grid.report.sheets import table_headers
from pld_grid.report.table import Row, Table, build_table
from pld_grid.report.terminal import print_table
from pld_grid.report.values import Value
from pld_grid.report.write import origin_of, report_files, write_files, write_report

__all__ = [
    "Difference", "Origin", "Row", "Table", "Value", "build_table", "check", "load", "origin_of", "print_table",
    "report_files", "table_headers", "write_files", "write_report",
]  # fmt: skip
