"""A table as Markdown for a git host: the setting first, then ours above the paper's in every cell."""

from pld_grid.report.report_notes import summarize_profiles
from pld_grid.report.table import Table
from pld_grid.report.templating import render_markdown_page
from pld_grid.report.values import Value
from pld_grid.util.csv_text import MISSING


def render_markdown(table: Table) -> str:
    """Render the file of one table."""
    return render_markdown_page(
        "table.md.jinja", table=table, profiles=summarize_profiles([table]), missing=_list_missing_cells(table)
    )


def _list_missing_cells(table: Table) -> dict[str, str]:
    """Return why cells are missing, each at its first number; skip what the table itself says in full."""
    lines: dict[str, str] = {}
    for row in table.rows:
        for header, value in zip(table.headers, row.cells, strict=True):
            if not isinstance(value, Value):
                continue
            for term in value.missing:
                if term.cell_id != MISSING and (term.reason or value.planned > 1):
                    seed = f", seed {term.cell_seed}" if value.planned > 1 else ""
                    lines.setdefault(term.cell_id, f"{row.name}, {header}{seed}: {term.status}")
    return lines
