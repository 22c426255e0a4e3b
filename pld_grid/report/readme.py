"""The report's `README.md`: every table with its counts, claims, figures, and what the paper leaves open."""

from collections import Counter
from collections.abc import Sequence

from pld_grid.report.claims.verdict import Verdict
from pld_grid.report.figures import Figure
from pld_grid.report.report_notes import collect_open_questions, describe_shared_cells, summarize_profiles
from pld_grid.report.table import Table
from pld_grid.report.templating import render_markdown_page


def render_readme(tables: Sequence[Table], verdicts: Sequence[Verdict] = (), figures: Sequence[Figure] = ()) -> str:
    """Render `README.md`."""
    cells = {i: cell for table in tables for i, cell in table.cells.items()}
    return render_markdown_page(
        "readme.md.jinja",
        tables=tables,
        verdicts=verdicts,
        figures=figures,
        profiles=summarize_profiles(tables),
        shared=describe_shared_cells(tables),
        other_data=any(not table.setting.matches_paper for table in tables),
        questions=collect_open_questions(cells.values()),
        describe_missing=_describe_missing,
    )


def _describe_missing(table: Table) -> str:
    counts = Counter(state for state in table.states.values() if state != "finished")
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"
