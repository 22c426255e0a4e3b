"""Explanations and differences on the terminal; in a pipe every id, path and command stays whole on its line."""

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from pld_grid.csvtext import NOTHING
from pld_grid.explain.account import Account
from pld_grid.explain.curve import curve
from pld_grid.explain.difference import ABSENT, Difference, FieldDifference, differing
from pld_grid.explain.library import Use
from pld_grid.explain.why import Explanation, Number
from pld_grid.progress import duration
from pld_grid.reading import show
from pld_grid.report.statistics import CONFIDENCE
from pld_grid.report.values import Term, fixed, printed, states, texts
from pld_grid.spec import Cell
from pld_grid.store import Provenance

_LABEL = 15
_WIDTH = 100
_SEQUENCE, _MAPPING = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"
Fact = tuple[str, str | Text]
_ONE_SEED = f"{NOTHING} (needs two seeds)"
_STATES = {"finished": "green", "failed": "red", "lost": "red", "diverged": "red"}


def print_explanation(found: Explanation, console: Console) -> None:
    """Prints a number and its parts, then every cell behind it, then their teachers."""
    if found.number is not None:
        _print_number(found.number, console)
    ledgers: dict[str, str] = {}
    for role, accounts in (("", found.accounts), ("teacher ", found.teachers)):
        for account in accounts:
            console.print()
            console.rule(Text(f"{role}{account.cell.cell_id}", style="bold cyan"), align="left", style="dim")
            _print_account(account, found.profile, console)
            _print_specification(account.cell, accounts[0].cell, console)
            _print_ledger(account, ledgers, console)
    if found.skipped:
        names = ", ".join(found.skipped)
        console.print(Text(f"\nnot searched, as profile {found.profile} cannot read them: {names}"), soft_wrap=True)


def specification(cell: Cell) -> str:
    """The whole cell as YAML, the teacher as its id."""
    fields = cell.model_dump(mode="json")
    fields["teacher"] = cell.teacher.cell_id if cell.teacher is not None else None
    return yaml.dump(
        fields, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=_WIDTH, allow_unicode=True
    )


class _Dumper(yaml.SafeDumper):
    """YAML with lists, and what is short, on one line."""


def _short(value: Any) -> bool:
    return len(show(value, _WIDTH)) < _WIDTH - 20


_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence(_SEQUENCE, value, flow_style=True))
_Dumper.add_representer(dict, lambda dumper, value: dumper.represent_mapping(_MAPPING, value, flow_style=_short(value)))


# -- a number ---------------------------------------------------------------------------------------------------------


def _print_number(number: Number, console: Console) -> None:
    value = number.value
    said = texts(value)
    console.print(Text(number.title, style="bold"), soft_wrap=True)
    facts: list[Fact] = [("row", number.row), ("column", number.column), ("ours", said["ours"])]
    if not value.fact:
        facts += [
            ("std", said["std"] if value.n > 1 else _ONE_SEED),
            ("n", f"{value.n} of {value.wanted}" if value.n < value.wanted else said["n"]),
            (f"{100 * CONFIDENCE:.0f} % interval", _interval(number)),
        ]
    if value.paper is not None:
        facts += [
            ("paper", printed(value)),
            ("difference", f"{said['difference']}{' (ours less the paper)' if value.difference is not None else ''}"),
        ]
    if value.n < value.wanted:
        facts.append(("missing", states(value)))
    if value.other_version:
        facts.append(("code", "not the version that made most of the table: see the commits"))
    _print_facts(facts, console)
    rows: list[Sequence[str | Text]] = []
    for sample in value.samples:
        whole = NOTHING if sample.number is None else fixed(sample.number, value.format)
        seed = NOTHING if sample.seed is None else str(sample.seed)
        for place, term in enumerate(sample.terms):
            rows.append([*((seed, whole) if place == 0 else ("", "")), *_term(term, value.format)])
    console.print()
    _print_columns(("seed", "number", "", "cell", "metric", "value", "state"), rows, console, right=(0, 1, 5))


def _term(term: Term, spec: str) -> list[str | Text]:
    number = NOTHING if term.value is None else fixed(term.value, spec)
    state = Text(term.state, style=_STATES.get(term.state, ""))
    return ["+" if term.sign > 0 else "-", Text(term.cell_id, style="cyan"), term.metric, number, state]


def _interval(number: Number) -> str:
    found = number.interval
    if found is None:
        return _ONE_SEED
    spec = number.value.format
    low, high, other_low, other_high = (
        fixed(bound, spec) for bound in (found.low, found.high, found.bootstrap_low, found.bootstrap_high)
    )
    return f"{low} to {high} (t); {other_low} to {other_high} (bootstrap)"


# -- a cell -----------------------------------------------------------------------------------------------------------


def _print_account(account: Account, profile: str, console: Console) -> None:
    console.print(Text(account.title, style="bold"), soft_wrap=True)
    _print_facts(
        [
            ("state", _state(account)),
            *_results(account),
            *_several("curve", curve(account.epochs)),
            *_several("used by", map(_use, account.uses), f"no grid under profile {profile}"),
            ("MLflow", _run(account)),
            *_several("files", account.files, "none"),
            *_several("set aside", account.earlier),
            *_several("history", (f"{_time(note.time)}  {note.text}" for note in account.history)),
            *_made(account.provenance),
            ("run it again" if account.provenance else "run it", account.rerun or f"no grid under {profile} needs it"),
        ],
        console,
    )


def _print_specification(cell: Cell, first: Cell, console: Console) -> None:
    """Prints the whole of the first cell, and of the others what they have otherwise."""
    _print_head("specification", console)
    if cell.cell_id == first.cell_id:
        _print_block(specification(cell).splitlines(), console)
        return
    others = [
        f"  without {field.path}" if field.b is ABSENT else f"  {field.path}: {_value(field.b)}"
        for field in differing(first, cell)
    ]
    _print_block([f"that of {first.cell_id}, but", *others], console)


def _print_ledger(account: Account, told: dict[str, str], console: Console) -> None:
    """Prints the choices, unless they are those `told` for another cell, by their text."""
    _print_head("what the paper leaves open, as chosen here", console)
    text = "\n".join(f"{choice.field}: {show(choice.value)}\n    {choice.question}" for choice in account.ledger)
    _print_block([f"as for {told[text]}"] if text in told else text.splitlines(), console)
    told.setdefault(text, account.cell.cell_id)


def _state(account: Account) -> Text:
    return Text(account.state, style=_STATES.get(account.state, "")).append(
        f": {account.reason}" if account.reason else "", style="default"
    )


def _results(account: Account) -> list[Fact]:
    found: list[Fact] = []
    if account.last is not None:
        metrics = account.last.metrics
        numbers = [
            f"{name} {metrics[key]:.2f} %" for name, key in (("top-1", "top1"), ("top-5", "top5")) if key in metrics
        ]
        if "best_top1" in metrics:
            best = f", epoch {metrics['best_epoch']:.0f}" if "best_epoch" in metrics else ""
            numbers.append(f"best top-1 {metrics['best_top1']:.2f} %{best}")
        if "kl_teacher_student" in metrics:
            numbers.append(f"KL(teacher||student) {metrics['kl_teacher_student']:.3f} nats")
        found.append(("result" if account.finished else f"at epoch {account.last.epoch}", ", ".join(numbers)))
    if account.parameters is not None:
        found.append(("parameters", f"{account.parameters:,}"))
    return found


def _use(use: Use) -> str:
    if use.students:
        return f"{use.table}: teacher of {_counted(use.students, 'student')}"
    return (
        f"{use.table}: {use.row}: {', '.join(use.columns)}" if use.row else f"{use.table}, which shows no number of it"
    )


def _run(account: Account) -> str:
    if account.run is None:
        return "no run of this cell is known there"
    return account.run.link if account.run.served else f"{account.run.link} (served by `pld-grid ui`)"


def _made(made: Provenance | None) -> list[Fact]:
    if made is None:
        return []
    parts = [made.device, _counted(made.threads, "thread")]
    parts += [_counted(made.devices, "device")] if made.devices > 1 else []
    parts += [name for name in ("channels_last", "compile") if getattr(made, name)]
    start, end = map(_time, (made.started, made.ended))
    return [
        ("commit", made.commit or "unknown"),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        ("hardware", ", ".join(parts)),
        ("time", f"{start} to {end} UTC, {duration(made.ended - made.started)}"),
    ]


# -- two cells --------------------------------------------------------------------------------------------------------


def print_difference(found: Difference, console: Console) -> None:
    """Prints what differs between two cells, whether they are a pair, and how their results differ."""
    sides = (("a", found.a), ("b", found.b))
    rows = [(side, Text(each.cell.cell_id, style="cyan"), _state(each), each.title) for side, each in sides]
    _print_columns(("", "cell", "state", ""), rows, console)
    if found.equal:
        console.print("\nThey are one cell: every field is equal.", soft_wrap=True)
        return
    _print_head(f"the specification differs in {_counted(len(found.fields), 'field')}", console)
    _print_fields(found.fields, console)
    _print_head("a paired difference" if found.paired else "no paired difference", console)
    _print_block(_shared(found), console)
    _print_head("results of the last epoch", console)
    if not found.comparable:
        _print_block(["Their datasets differ, so these numbers cannot be compared."], console)
    _print_metrics(found, console)
    _print_head("made with", console)
    known = found.a.provenance is not None and found.b.provenance is not None
    if found.made_with:
        _print_fields(found.made_with, console)
    else:
        _print_block(["the same code, versions and hardware" if known else "not known of both yet"], console)


def _shared(found: Difference) -> list[str]:
    """What chance had a part in: batches, teacher, initial weights."""
    a, b = found.a.cell, found.b.cell
    seeds = f"seed {a.seed}" if a.seed == b.seed else f"seeds {a.seed} and {b.seed}"
    batches = f"the same batches ({seeds})" if found.same_batches else f"different batches ({seeds})"
    ids = dict.fromkeys(cell.teacher.cell_id for cell in (a, b) if cell.teacher is not None)
    if found.same_teacher is None:
        teacher = "only one of them has a teacher" if ids else "no teachers"
    else:
        teacher = f"{'the same teacher' if found.same_teacher else 'different teachers'} ({' and '.join(ids)})"
    return [batches, teacher, "the same initial weights" if found.same_start else "different initial weights"]


def _print_metrics(found: Difference, console: Console) -> None:
    if not found.metrics:
        _print_block(["none yet"], console)
        return
    headers = ["metric"]
    for side, account in (("a", found.a), ("b", found.b)):
        reached = f" (epoch {account.last.epoch})" if account.last is not None and not account.finished else ""
        headers.append(f"{side}{reached}")
    rows = []
    for metric in found.metrics:
        sides = [NOTHING if number is None else f"{number:.4g}" for number in (metric.a, metric.b)]
        rows.append(
            [
                metric.metric,
                *sides,
                NOTHING if metric.difference is None else f"{metric.difference:+.3g}" if metric.difference else "0",
            ]
        )
    _print_columns([*headers, "a - b"], rows, console, right=(1, 2, 3))


def _print_fields(fields: Iterable[FieldDifference], console: Console) -> None:
    rows = [[field.path, _value(field.a), _value(field.b)] for field in fields]
    _print_columns(("field", "a", "b"), rows, console)


def _value(value: Any) -> str:
    return NOTHING if value is ABSENT else value if isinstance(value, str) else show(value, 1000)


# -- lines ------------------------------------------------------------------------------------------------------------


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def _several(label: str, lines: Iterable[str], none: str = "") -> list[Fact]:
    """Facts under one label; `none` where there are none, or no line at all."""
    found = list(lines) or ([none] if none else [])
    return [(label if place == 0 else "", line) for place, line in enumerate(found)]


def _print_facts(facts: Sequence[Fact], console: Console) -> None:
    for label, text in facts:
        line = Text.assemble((label.ljust(_LABEL), "dim"), text)
        console.print(line, soft_wrap=True)


def _print_head(text: str, console: Console) -> None:
    console.print(Text(f"\n{text}", style="dim"), soft_wrap=True)


def _print_block(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)


def _print_columns(
    headers: Sequence[str], rows: Iterable[Sequence[str | Text]], console: Console, right: Collection[int] = ()
) -> None:
    """Prints a table whose lines stay whole, however narrow the terminal or pipe; `right` are aligned to the right."""
    lines = [[Text.assemble(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(line[column].cell_len for line in lines) for column in range(len(headers))]
    for number, line in enumerate(lines):
        for column, cell in enumerate(line):
            pad = cell.pad_left if column in right else cell.pad_right
            pad(widths[column] - cell.cell_len)
        whole = Text("  ").join(line)
        whole.rstrip()
        if number == 0:
            whole.stylize("dim")
        console.print(whole, soft_wrap=True)
