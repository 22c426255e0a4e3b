"""Pages from jinja2 templates, which are package data: `.html` is escaped automatically, Markdown by filters."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from pld_grid.report.table_notes import collect_notes, describe_numbers
from pld_grid.report.value_text import describe_value, format_fields
from pld_grid.util.csv_text import full

if TYPE_CHECKING:
    from jinja2 import Environment

_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows unchanged, on one line of a table."""
    return text.translate(_SPECIAL)


def code_span(text: str) -> str:
    """Return text in a code span; a bar is escaped, because it would end a table's cell even there."""
    return "`" + " ".join(text.replace("`", "'").replace("|", "\\|").split()) + "`"


@cache
def load_templates(package: str = "pld_grid.report") -> "Environment":
    """Return the environment of a package's templates: the filters `md` and `code`, and what describes a table."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": escape_markdown, "code": code_span}
    functions = (collect_notes, describe_numbers, describe_value, format_fields, full)
    environment.globals |= {function.__name__: function for function in functions}
    return environment


def render_markdown_page(template: str, package: str = "pld_grid.report", **context: Any) -> str:
    """Render a Markdown page; parts of the template may be empty, as several blank lines become one."""
    text = load_templates(package).get_template(template).render(context)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
