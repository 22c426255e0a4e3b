"""The report's first page: every table with its counts, and what the paper leaves open."""

from collections import Counter
from collections.abc import Iterable, Sequence

from pld_grid.report.markdown import code, escape, grid_lines, models_list, warning
from pld_grid.report.summary import open_questions, shared_cells
from pld_grid.report.table import Table
from pld_grid.report.values import finished
from pld_grid.spec import Cell


def index_markdown(tables: Sequence[Table], more: Sequence[str] = ()) -> str:
    """The page `README.md`; `more` are sections in Markdown, each with its heading."""
    cells = {i: cell for table in tables for i, cell in table.cells.items()}
    settings = {table.setting.profile: table.setting for table in tables}
    parts = ["# Tables, ours beside the paper's" if any(table.paper for table in tables) else "# Tables"]
    for name, setting in settings.items():
        mine = [table for table in tables if table.setting.profile == name]
        models = {known: text for table in mine for known, text in table.setting.models.items()}
        parts.append(warning(setting, any(table.paper for table in mine)))
        parts.append(
            grid_lines(["Profile", f"{code(name)}: {escape(setting.description)}"], [["Models", models_list(models)]])
        )
    parts += [_tables(tables), shared_cells(tables), _mixed(tables)]
    parts.append(
        "The cells behind every number, in full precision, with run and commit: [provenance.csv](provenance.csv)."
    )
    parts += [*more, "## What the paper leaves open", _ledger(cells.values())]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(tables: Sequence[Table]) -> str:
    rows = []
    for table in tables:
        numbers, wanted = finished(table.values)
        count = Counter(table.states.values())
        done = count.pop("finished", 0)
        rest = ", ".join(f"{number} {state}" for state, number in sorted(count.items())) or "none"
        link = f"[{escape(table.title)}]({table.name}.md) ([CSV]({table.name}.csv), [LaTeX]({table.name}.tex))"
        rows.append([link, f"{numbers} of {wanted}", f"{done} of {len(table.states)}", rest])
    return grid_lines(["Table", "Numbers complete", "Cells finished", "Cells missing"], rows, (1, 2))


def _mixed(tables: Iterable[Table]) -> str:
    """Names the tables that more than one version of the code made."""
    found = [f"[{escape(table.title)}]({table.name}.md)" for table in tables if len(table.versions) > 1]
    text = "More than one version of the code made the cells of these tables; each says which, and marks their numbers:"
    return "\n".join([text, "", *(f"- {link}" for link in found)]) if found else ""


def _ledger(cells: Iterable[Cell]) -> str:
    rows = []
    for entry in open_questions(cells):
        used = code(", ".join(entry.values)) if entry.values else "not used"
        rows.append([code(entry.field), used, escape(entry.question)])
    text = "Each is a recorded field of every cell, so another choice is another cell. The values are those used here."
    return text + "\n\n" + grid_lines(["Field", "Value", "Question"], rows)
