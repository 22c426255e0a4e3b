"""A table on the terminal."""

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pld_grid.report.table import Table, TableCell
from pld_grid.report.table_notes import collect_notes, describe_numbers
from pld_grid.report.value_text import describe_value
from pld_grid.report.values import Value


def print_table(table: Table, console: Console) -> None:
    """Print a table: ours, below it the paper's figure and the difference, then the setting and the notes."""
    setting = table.setting
    grid = RichTable(title=Text(table.title), title_justify="left", title_style="bold", show_lines=True)
    for header, has_numbers in zip(table.headers, table.has_numbers, strict=True):
        grid.add_column(Text(header), justify="right" if has_numbers else "left")
    for row in table.rows:
        grid.add_row(*map(_format_cell, row.cells))
    console.print(grid)
    below = "; below: the paper's (ours minus the paper's)" if table.paper else ""
    console.print(Text(f"ours: {describe_numbers(table)}{below}", style="dim"))
    if not setting.matches_paper:
        console.print(Text(f"Not the paper's experiments: {setting.dataset}.", style="yellow"))
    for line in (setting.summary, setting.models_text, *collect_notes(table).values()):
        console.print(Text(line, style="dim"))


def _format_cell(cell: TableCell) -> Text:
    if not isinstance(cell, Value):
        return Text(cell)
    parts = describe_value(cell)
    text = Text(parts.ours, style="bold" if cell.mean is not None else "")
    text.append(parts.mark + (f" {parts.spread}" if parts.spread else ""), style="not bold")
    paper = f"{parts.paper} ({parts.difference})" if parts.difference else parts.paper
    for line, style in ((parts.interval, "not bold"), (parts.missing, "not bold red"), (paper, "not bold dim")):
        if line:
            text.append(f"\n{line}", style=style)
    return text
