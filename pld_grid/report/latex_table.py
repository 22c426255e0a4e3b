"""A table as LaTeX for a paper: `booktabs` rules, ours first, below it in small type the interval and the paper's."""

import re
from collections.abc import Sequence

from pld_grid.report.code_versions import VERSION_MARK
from pld_grid.report.table import Row, Table, TableCell
from pld_grid.report.table_notes import collect_notes, describe_numbers
from pld_grid.report.value_text import describe_value
from pld_grid.report.values import Value

_NEEDS = (
    r"Needs \usepackage{booktabs} and \usepackage{xcolor}; letters beyond Latin need XeLaTeX or LuaLaTeX.",
    r"If it is too wide for the page: \resizebox{\linewidth}{!}{...} of graphicx around the tabular.",
)
# LaTeX numbers tables itself.
_NUMBER = re.compile(r"^Table \w+: ")
_ONE_LINE = dict.fromkeys([*range(32), 127], " ")
_NAMED = {
    "\\": "backslash",
    "~": "asciitilde",
    "^": "asciicircum",
    "|": "bar",
    "<": "less",
    ">": "greater",
    "`": "asciigrave",
}
# At the start of a line, LaTeX would read a bracket or a star as an argument of the \\ before it; some languages of
# babel make the quotation mark active.
_SPECIAL = _ONE_LINE | str.maketrans(
    {c: f"\\{c}" for c in "{}$&#_%"}
    | {c: f"{{{c}}}" for c in "[]*"}
    | {c: f"\\text{name}{{}}" for c, name in _NAMED.items()}
    | {'"': r"\symbol{34}", "±": r"$\pm$", VERSION_MARK: r"$^\dagger$"}
)


def render_latex(table: Table) -> str:
    """Render the table as a `table` environment with the label `tab:pld-grid-<name>`.

    A row takes a line for our numbers and, if it has any, one each for intervals, states and the paper's figures.
    """
    alignment = "".join("r" if has_numbers else "l" for has_numbers in table.has_numbers)
    headers = zip(table.headers, table.has_numbers, strict=True)
    body = "\n    \\addlinespace\n".join("\n".join(_format_row(row)) for row in table.rows)
    return "\n".join(
        [
            *_list_comments(table),
            r"\begin{table}",
            r"  \centering\small\setlength{\tabcolsep}{4pt}",
            rf"  \caption{{{_format_caption(table)}}}",
            rf"  \label{{tab:pld-grid-{re.sub('[^A-Za-z0-9.-]', '-', table.name)}}}\smallskip",
            rf"  \begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
            r"    \toprule",
            _format_line([_stack_words(h) if has_numbers else escape_latex(h) for h, has_numbers in headers]),
            r"    \midrule",
            *([body] if body else []),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints unchanged, on one line; consecutive hyphens do not become a dash."""
    return text.translate(_SPECIAL).replace("--", "-{}-").replace("--", "-{}-")


def _stack_words(header: str) -> str:
    """Return a header with one word per line, because columns of numbers are narrow."""
    words = r"\\".join(escape_latex(word) for word in header.split())
    return rf"\shortstack[r]{{{words}}}" if r"\\" in words else words


def _format_row(row: Row) -> list[str]:
    """Return the row's lines without the blank ones; the first is always there."""
    first, *below = zip(*map(_format_cell, row.cells), strict=True)
    return [_format_line(line) for line in (first, *filter(any, below))]


def _format_cell(cell: TableCell) -> tuple[str, str, str, str]:
    """Return a cell's lines: ours, interval, states, the paper's."""
    if not isinstance(cell, Value):
        return (escape_latex(cell), "", "", "")
    text = describe_value(cell)
    ours = " ".join(filter(None, (_format_numbers(text.ours) + escape_latex(text.mark), _small(text.spread))))
    paper = rf"{{\scriptsize\textcolor{{darkgray}}{{{_format_numbers(text.paper)}}}}}" if text.paper else ""
    return (ours, _small(text.interval), _small(text.missing), paper)


def _small(numbers: str) -> str:
    return rf"{{\scriptsize {_format_numbers(numbers)}}}" if numbers else ""


def _format_numbers(text: str) -> str:
    """Return a text of numbers, with minus signs for hyphens."""
    return re.sub(r"-(?=\d)", "$-$", escape_latex(text))


def _format_line(cells: Sequence[str]) -> str:
    return rf"    {' & '.join(cells)} \\"


def _list_comments(table: Table) -> list[str]:
    setting = table.setting
    comments = [*_NEEDS, table.title, setting.summary, f"Models: {setting.models_text}"]
    return [f"% {text.translate(_ONE_LINE)}" for text in comments]


def _format_caption(table: Table) -> str:
    setting = table.setting
    sentences = [_NUMBER.sub("", table.title).rstrip(".")]
    if not setting.matches_paper:
        sentences.append(f"Not the paper's experiments: {setting.dataset}, epochs {setting.epochs_text}")
    sentences.append(f"Each number is ours: {describe_numbers(table)}")
    if table.paper:
        sentences.append("In grey: the paper's figure as printed")
    return escape_latex(". ".join([*sentences, *collect_notes(table).values()]) + ".")
