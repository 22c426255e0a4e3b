"""A table on the terminal."""

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pld_grid.report.caption import MARK, captions, numbers_caption
from pld_grid.report.table import Table
from pld_grid.report.values import Value, interval_text, printed, spread_text, states, texts


def print_table(table: Table, console: Console) -> None:
    """Prints a table: ours, below it the paper's figure and the difference, and what the numbers were made with."""
    setting = table.setting
    shown = RichTable(title=Text(table.title), title_justify="left", title_style="bold", show_lines=True)
    for index, header in enumerate(table.headers):
        shown.add_column(Text(header), justify="right" if table.is_value(index) else "left")
    for row in table.rows:
        shown.add_row(*(_cell(cell) if isinstance(cell, Value) else Text(cell) for cell in row.cells))
    console.print(shown)
    below = "; below: the paper's (ours minus the paper's)" if table.paper else ""
    console.print(Text(f"ours: {numbers_caption(table)}{below}", style="dim"))
    if not setting.as_in_paper:
        console.print(Text(f"Not the paper's experiments: {setting.dataset}.", style="yellow"))
    seeds = ", ".join(map(str, setting.seeds)) or "none"
    for line in (
        f"profile {setting.profile}: {setting.dataset}; epochs {setting.epochs_text}; seeds {seeds}",
        setting.models_text,
        *captions(table).values(),
    ):
        console.print(Text(line, style="dim"))


def _cell(value: Value) -> Text:
    said = texts(value)
    text = Text(said["ours"], style="bold" if value.mean is not None else "")
    text.append((MARK if value.other_version else "") + spread_text(value), style="not bold")
    if found := interval_text(value):
        text.append(f"\n{found}", style="not bold")
    if value.n < value.wanted:
        text.append(f"\n{states(value, brief=True)}", style="not bold red")
    if value.paper is not None:
        difference = f" ({said['difference']})" if value.difference is not None else ""
        text.append(f"\n{printed(value)}{difference}", style="not bold dim")
    return text
