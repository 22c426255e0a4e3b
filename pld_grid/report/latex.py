"""A table as LaTeX for a paper: `booktabs` rules, ours first, below it in small type the interval and the paper's."""

import re
from collections.abc import Sequence

from pld_grid.report.caption import MARK, captions, numbers_caption
from pld_grid.report.table import Row, Table, TableCell
from pld_grid.report.values import Value, interval_text, printed, spread_text, states, texts

_NEEDS = (
    r"Needs \usepackage{booktabs} and \usepackage{xcolor}; letters beyond Latin need XeLaTeX or LuaLaTeX.",
    r"If it is too wide for the page: \resizebox{\linewidth}{!}{...} of graphicx around the tabular.",
)
# LaTeX numbers tables itself.
_NUMBER = re.compile(r"^Table \w+: ")
_ONE_LINE = dict.fromkeys([*range(32), 127], " ")
_NAMED = {
    "\\": "backslash", "~": "asciitilde", "^": "asciicircum", "|": "bar", "<": "less", ">": "greater",
    "`": "asciigrave",
}  # fmt: skip
# A bracket or a star that begins a line would be read as an argument of the \\ before it; a quotation mark is active
# under some languages of babel.
_SPECIAL = _ONE_LINE | str.maketrans(
    {c: f"\\{c}" for c in "{}$&#_%"}
    | {c: f"{{{c}}}" for c in "[]*"}
    | {c: f"\\text{name}{{}}" for c, name in _NAMED.items()}
    | {'"': r"\symbol{34}", "±": r"$\pm$", MARK: r"$^\dagger$"}
)


def table_latex(table: Table) -> str:
    """The table as a `table` environment with the label `tab:pld-grid-<name>`.

    A row takes a line for our numbers and, where it has any, one each for intervals, states and the paper's figures.
    """
    alignment = "".join("r" if table.is_value(index) else "l" for index in range(len(table.headers)))
    body = "\n    \\addlinespace\n".join("\n".join(_lines(row)) for row in table.rows)
    return "\n".join(
        [
            *_comments(table),
            r"\begin{table}",
            r"  \centering\small\setlength{\tabcolsep}{4pt}",
            rf"  \caption{{{_caption(table)}}}",
            rf"  \label{{tab:pld-grid-{re.sub('[^A-Za-z0-9.-]', '-', table.name)}}}\smallskip",
            rf"  \begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
            r"    \toprule",
            _line([_stacked(h) if table.is_value(i) else escape(h) for i, h in enumerate(table.headers)]),
            r"    \midrule",
            *([body] if body else []),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, on one line; hyphens in a row do not become a dash."""
    return text.translate(_SPECIAL).replace("--", "-{}-").replace("--", "-{}-")


def _stacked(header: str) -> str:
    """A header with its words one below the other, as numbers are narrow."""
    words = r"\\".join(escape(word) for word in header.split())
    return rf"\shortstack[r]{{{words}}}" if r"\\" in words else words


def _number(text: str) -> str:
    """A text of numbers, with minus signs for hyphens."""
    return re.sub(r"-(?=\d)", "$-$", escape(text))


def _lines(row: Row) -> list[str]:
    """The row's lines; those that would be blank are left out, but the first."""
    columns = [_cell(cell) for cell in row.cells]
    lines = list(zip(*columns, strict=True))
    return [_line(line) for line in lines[:1] + [below for below in lines[1:] if any(below)]]


def _cell(cell: TableCell) -> tuple[str, ...]:
    """A cell's lines: ours, interval, states, the paper's."""
    if not isinstance(cell, Value):
        return (escape(cell), "", "", "")
    ours = _number(texts(cell)["ours"]) + (escape(MARK) if cell.other_version else "")
    if spread := spread_text(cell).strip():
        ours += rf" {{\scriptsize {_number(spread)}}}"
    interval = rf"{{\scriptsize {_number(found)}}}" if (found := interval_text(cell)) else ""
    missing = rf"{{\scriptsize {escape(states(cell, brief=True))}}}" if cell.n < cell.wanted else ""
    paper = rf"{{\scriptsize\textcolor{{darkgray}}{{{_number(printed(cell))}}}}}" if cell.paper is not None else ""
    return (ours, interval, missing, paper)


def _line(cells: Sequence[str]) -> str:
    return rf"    {' & '.join(cells)} \\"


def _comments(table: Table) -> list[str]:
    """What there is to know beside the caption, as comments."""
    setting = table.setting
    seeds = ", ".join(map(str, setting.seeds)) or "none"
    said = [
        *_NEEDS,
        table.title,
        f"Profile {setting.profile}: {setting.dataset}; epochs {setting.epochs_text}; seeds {seeds}",
        f"Models: {setting.models_text}",
    ]
    return [f"% {text.translate(_ONE_LINE)}" for text in said]


def _caption(table: Table) -> str:
    setting = table.setting
    said = [_NUMBER.sub("", table.title).rstrip(".")]
    if not setting.as_in_paper:
        said.append(f"Not the paper's experiments: {setting.dataset}, epochs {setting.epochs_text}")
    said.append(f"Each number is ours: {numbers_caption(table)}")
    if table.paper:
        said.append("In grey: the paper's figure as printed")
    return escape(". ".join([*said, *captions(table).values()]) + ".")
