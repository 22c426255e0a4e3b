"""A table as Markdown for a git host: the setting first, then ours above the paper's in every cell."""

from collections.abc import Iterable, Mapping, Sequence

from pld_grid.csvtext import NOTHING
from pld_grid.report.caption import MARK, captions, numbers_caption
from pld_grid.report.setting import Setting
from pld_grid.report.summary import NOT_THE_PAPERS, other_experiments
from pld_grid.report.table import Table
from pld_grid.report.values import Value, interval_text, printed, spread_text, states, texts

_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
)


def table_markdown(table: Table) -> str:
    """The whole file of one table."""
    setting = table.setting
    parts = [f"# {escape(table.title)}", warning(setting, bool(table.paper)), _setting(table), _grid(table)]
    parts += [_legend(table), _unfinished(table)]
    parts.append(
        f"As data: [{table.name}.csv]({table.name}.csv); the cells behind it: [provenance.csv](provenance.csv)."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line of a table."""
    return text.translate(_SPECIAL)


def code(text: str) -> str:
    """Text in a code span; inside a table even there a bar would end the cell."""
    return "`" + " ".join(text.replace("`", "'").replace("|", "\\|").split()) + "`"


def grid_lines(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table; `right` are the columns aligned to the right."""
    right = set(right)
    rule = ["---:" if i in right else ":---" for i in range(len(headers))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(headers), rule, *rows])


def warning(setting: Setting, paper: bool) -> str:
    """Says loudly that the numbers are not the paper's experiments, where they are not."""
    text = other_experiments(setting, paper)
    return f"> **{NOT_THE_PAPERS}** {escape(text)}" if text else ""


def _setting_rows(setting: Setting, paper: bool) -> list[list[str]]:
    """Label and text of what the numbers were made with."""
    named = "the paper's" if paper else "the grid's"
    epochs = [str(run) if run == number else f"{run} for {named} {number}" for number, run in setting.epochs.items()]
    n = len(setting.seeds)
    spread = "" if n > 1 else ': one seed, so no standard deviation and no interval ("-")'
    return [
        ["Profile", f"{code(setting.profile)}: {escape(setting.description)}"],
        ["Dataset", escape(setting.dataset)],
        ["Models", models_list(setting.models)],
        ["Teachers", escape(setting.teachers)],
        ["Epochs", "<br>".join(epochs) or "none"],
        ["Batches", escape(setting.recipe)],
        ["Seeds", f"{', '.join(map(str, setting.seeds)) or 'none'} (n = {n}{spread})"],
    ]


def models_list(models: Mapping[str, str]) -> str:
    """Names and what they stood for, one a line inside a table's cell."""
    return "<br>".join(f"{escape(name)}: {code(text)}" for name, text in models.items())


def _setting(table: Table) -> str:
    rows = _setting_rows(table.setting, bool(table.paper))
    done = sum(state == "finished" for state in table.states.values())
    rows.append(["Cells", f"{done} of {len(table.states)} finished, teachers included"])
    rows += [[label, escape(text)] for label, text in captions(table).items()]
    return grid_lines(["Ours", ""], rows)


def _grid(table: Table) -> str:
    values = [i for i in range(len(table.headers)) if table.is_value(i)]
    rows = [[_cell(cell) if isinstance(cell, Value) else escape(cell) for cell in row.cells] for row in table.rows]
    return grid_lines([escape(header) for header in table.headers], rows, values)


def _cell(value: Value) -> str:
    said = texts(value)
    ours = f"**{said['ours']}**" if value.mean is not None else said["ours"]
    ours += (MARK if value.other_version else "") + spread_text(value)
    below = [escape(found)] if (found := interval_text(value)) else []
    if value.n < value.wanted:
        below.append(escape(states(value, brief=True)))
    if value.paper is not None:
        below.append(" · ".join([printed(value), *([said["difference"]] if value.difference is not None else [])]))
    return "<br>".join([ours, *(f"<sub>{line}</sub>" for line in below)])


def _legend(table: Table) -> str:
    text = f"Each cell: **ours**, {escape(numbers_caption(table))}"
    if any(value.is_difference for value in table.values):
        text += "; below a difference its interval in brackets"
    if table.paper:
        text += "; last the paper's figure as printed · ours minus the paper's, from unrounded numbers"
    text += '. "-": there is no such number, and why; in the paper\'s place: the paper prints none.'
    return text


def _unfinished(table: Table) -> str:
    """Why cells are missing, each at the first number that lacks it; what the table itself says whole is left out."""
    lines: dict[str, str] = {}
    for row in table.rows:
        for header, value in zip(table.headers, row.cells, strict=True):
            if not isinstance(value, Value):
                continue
            several = value.wanted > 1
            for term in value.missing:
                if term.cell_id != NOTHING and (term.reason or several):
                    place = f"{row.name}, {header}" + (f", seed {term.cell_seed}" if several else "")
                    lines.setdefault(term.cell_id, f"- {escape(f'{place}: {term.why}')} (cell `{term.cell_id}`)")
    return "\n".join(["## Missing cells", "", *lines.values()]) if lines else ""
