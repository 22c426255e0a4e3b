"""Numbers as text: the columns of a CSV file, and the parts that Markdown, LaTeX, HTML and the terminal arrange."""

from dataclasses import dataclass

from pld_grid.report.code_versions import VERSION_MARK
from pld_grid.report.values import Value
from pld_grid.util.csv_text import MISSING

BOUNDS = ("low", "high", "bootstrap low", "bootstrap high")


@dataclass(frozen=True)
class ValueText:
    """The parts of a number that every rendering shows; a part that does not apply is empty.

    Attributes:
        ours: Our mean: `71.46`, or `-`.
        mark: The mark of a number from another code version.
        spread: The standard deviation and the number of seeds: `± 0.71 (3)`.
        interval: The t interval of a difference: `[0.08, 1.62]`, or `[-]`.
        missing: Why numbers are missing, in short: `n = 2 of 3`.
        paper: The paper's figure as printed: `72.44 ± 0.36`, or `-`; empty without a paper.
        difference: Our number minus the paper's: `+0.16`.
    """

    ours: str
    mark: str
    spread: str
    interval: str
    missing: str
    paper: str
    difference: str


def describe_value(value: Value) -> ValueText:
    """Return the texts of a number."""
    fields = format_fields(value)
    has_mean = value.mean is not None
    interval = f"[{fields['low']}, {fields['high']}]" if value.interval is not None else f"[{MISSING}]"
    return ValueText(
        ours=fields["ours"],
        mark=VERSION_MARK if value.from_other_version else "",
        spread=f"± {fields['std']} ({fields['n']})" if value.planned > 1 and has_mean else "",
        interval=interval if value.is_difference and has_mean else "",
        missing="" if value.is_complete else describe_state(value, brief=True),
        paper="" if value.paper is None else format_paper_figure(value),
        difference="" if value.difference is None else fields["difference"],
    )


def format_fields(value: Value) -> dict[str, str]:
    """Return the texts of a number by the names of its columns in a CSV file; `-` stands for a missing one."""
    numbers = {"ours": value.mean, "std": value.std, **dict.fromkeys(BOUNDS)}
    if value.interval is not None:
        numbers |= {bound: getattr(value.interval, bound.replace(" ", "_")) for bound in BOUNDS}
    difference = MISSING
    if value.difference is not None and value.paper:
        difference = format_number(value.difference, f".{count_decimals(value.paper)}f", sign=True)
    texts = {name: MISSING if x is None else format_number(x, value.format) for name, x in numbers.items()}
    return texts | {
        "n": str(value.n),
        "paper": value.paper or MISSING,
        "paper std": value.paper_std or MISSING,
        "difference": difference,
    }


def format_number(number: float, spec: str, sign: bool = False) -> str:
    """Return a number as text, without the "-0.00" of a tiny negative number."""
    text = format(number, spec)
    if float(text) == 0:
        text = text.lstrip("-")
    return f"+{text}" if sign and not text.startswith("-") else text


def count_decimals(printed: str) -> int:
    """Return the number of decimals of a printed figure."""
    return len(printed.partition(".")[2])


def format_paper_figure(value: Value) -> str:
    """Return the paper's figure with the standard deviation that it prints, if any, or "-"."""
    return f"{value.paper} ± {value.paper_std}" if value.paper and value.paper_std else value.paper or MISSING


def describe_state(value: Value, brief: bool = False) -> str:
    """Return why numbers are missing, or "finished"; `brief` leaves the reasons out.

    With several seeds, "n = 2 of 3" comes first and each missing cell names its seed.
    """
    if value.is_complete:
        return "finished"
    reasons = list(dict.fromkeys(term.state if brief else term.status for term in value.missing))
    if value.planned == 1 or (value.n == 0 and len(reasons) == 1):
        return "; ".join(reasons)
    count = f"n = {value.n} of {value.planned}"
    if brief:
        return count
    by_seed = [t.status if t.cell_seed is None else f"seed {t.cell_seed}: {t.status}" for t in value.missing]
    return "; ".join([count, *dict.fromkeys(by_seed)])
