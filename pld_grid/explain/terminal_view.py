"""Print explanations and differences; in a pipe every id, path and command stays whole on its line."""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.metrics import BEST_EPOCH, BEST_TOP1, KL_TEACHER_STUDENT, TOP1, TOP5
from pld_grid.explain.cell_report import CellReport
from pld_grid.explain.difference import ABSENT, Difference, FieldDifference, compare_fields, dump_fields
from pld_grid.explain.explanation import Explanation, Number
from pld_grid.explain.grid_index import Use
from pld_grid.explain.sparkline import render_curve
from pld_grid.report.statistics import CONFIDENCE
from pld_grid.report.value_text import describe_state, format_fields, format_number, format_paper_figure
from pld_grid.report.values import Term
from pld_grid.store import Provenance
from pld_grid.track.tracking_uri import ui_command
from pld_grid.util.csv_text import MISSING
from pld_grid.util.text import format_duration, show

_LABEL_WIDTH = 15
_YAML_WIDTH = 100
_STATE_STYLES = {"finished": "green", "failed": "red", "lost": "red", "diverged": "red"}
Lines = Iterator[Text | Rule]
Fact = tuple[str, str | Text | Iterable[str]]


def print_result(result: Explanation | Difference, console: Console) -> None:
    """Print a number and the cells behind it with their teachers, or what differs between two cells."""
    for line in _explain(result) if isinstance(result, Explanation) else _compare(result):
        console.print(line, soft_wrap=True)


def _explain(explanation: Explanation) -> Lines:
    if explanation.number is not None:
        yield from _show_number(explanation.number)
    ledgers: dict[str, str] = {}
    for role, reports in (("", explanation.cells), ("teacher ", explanation.teachers)):
        for report in reports:
            yield Text()
            yield Rule(Text(f"{role}{report.cell.cell_id}", style="bold cyan"), align="left", style="dim")
            yield from _show_cell(report, explanation.profile)
            yield from _show_specification(report.cell, reports[0].cell)
            yield from _show_ledger(report, ledgers)
    if explanation.skipped:
        names = ", ".join(explanation.skipped)
        yield Text(f"\nnot searched, as profile {explanation.profile} cannot read them: {names}")


def _show_number(number: Number) -> Lines:
    value = number.value
    texts = format_fields(value)
    yield Text(number.title, style="bold")
    yield from _facts(("row", number.row), ("column", number.column), ("ours", texts["ours"]))
    if not value.is_model_size:
        yield from _facts(
            ("std", texts["std"]),
            ("n", f"{value.n} of {value.planned}"),
            (f"{100 * CONFIDENCE:.0f} % interval", _format_interval(number)),
        )
    if value.paper is not None:
        meaning = " (ours - paper)" if value.difference is not None else ""
        yield from _facts(("paper", format_paper_figure(value)), ("difference", texts["difference"] + meaning))
    yield from _facts(
        ("missing", describe_state(value) if value.n < value.planned else ""),
        ("code", "not the version that made most of the table: see the commits" if value.from_other_version else ""),
    )
    rows: list[Sequence[str | Text]] = []
    for sample in value.samples:
        total = MISSING if sample.number is None else format_number(sample.number, value.format)
        seed = MISSING if sample.seed is None else str(sample.seed)
        for place, term in enumerate(sample.terms):
            rows.append([*((seed, total) if place == 0 else ("", "")), *_format_term(term, value.format)])
    yield Text()
    yield from _columns(("seed", "number", "", "cell", "metric", "value", "state"), rows, right=(0, 1, 5))


def _format_term(term: Term, spec: str) -> list[str | Text]:
    number = MISSING if term.value is None else format_number(term.value, spec)
    cell_id, state = Text(term.cell_id, style="cyan"), Text(term.state, style=_STATE_STYLES.get(term.state, ""))
    return ["+" if term.sign > 0 else "-", cell_id, term.metric, number, state]


def _format_interval(number: Number) -> str:
    interval, spec = number.interval, number.value.format
    if interval is None:
        return f"{MISSING} (needs two seeds)"
    bounds = (interval.low, interval.high, interval.bootstrap_low, interval.bootstrap_high)
    return "{} to {} (t); {} to {} (bootstrap)".format(*(format_number(bound, spec) for bound in bounds))


def _show_cell(report: CellReport, profile: str) -> Lines:
    record, last = report.record, report.last_epoch
    metrics = last.metrics if last is not None else {}
    shown = (TOP1, TOP5, BEST_TOP1, BEST_EPOCH, KL_TEACHER_STUDENT)
    numbers = [metric.describe(metrics[metric.name]) for metric in shown if metric.name in metrics]
    served = " (served by `pld-grid ui`)" if ui_command(report.tracking_uri) else ""
    yield Text(report.title, style="bold")
    yield from _facts(
        ("state", _format_state(report)),
        ("result" if last is None or report.state == "finished" else f"at epoch {last.epoch}", ", ".join(numbers)),
        ("parameters", "" if record.parameters is None else f"{record.parameters:,}"),
        ("curve", render_curve(record.epochs)),
        ("used by", [_format_use(use) for use in report.uses] or f"no grid under profile {profile}"),
        ("MLflow", report.run_link + served if report.run_link else "no run of this cell is known there"),
        ("files", report.files or "none"),
        ("archived", report.earlier),
        ("history", [f"{_format_time(note.time)}  {note.text}" for note in report.history]),
    )
    if record.provenance is not None:
        yield from _show_provenance(record.provenance)
    command = report.rerun or f"no grid under {profile} needs it"
    yield from _facts(("run it again" if record.provenance else "run it", command))


def _show_provenance(provenance: Provenance) -> Lines:
    hardware = [provenance.device, _count(provenance.threads, "thread")]
    hardware += [_count(provenance.devices, "device")] if provenance.devices > 1 else []
    hardware += [name for name in ("channels_last", "compile") if getattr(provenance, name)]
    start, end = map(_format_time, (provenance.started, provenance.ended))
    return _facts(
        ("commit", provenance.commit or "unknown"),
        ("versions", ", ".join(f"{name} {version}" for name, version in provenance.versions.items())),
        ("hardware", ", ".join(hardware)),
        ("time", f"{start} to {end} UTC, {format_duration(provenance.ended - provenance.started)}"),
    )


def _show_specification(cell: Cell, first: Cell) -> Lines:
    """Yield the whole of the first cell, and of the others their differences from it."""
    yield _heading("specification")
    if cell.cell_id == first.cell_id:
        yield from _block(format_specification(cell).splitlines())
    else:
        yield from _block([f"that of {first.cell_id}, but"])
        for field in compare_fields(first, cell):
            text = f"without {field.path}" if field.b is ABSENT else f"{field.path}: {_format_value(field.b)}"
            yield from _block([f"  {text}"])


def format_specification(cell: Cell) -> str:
    """Return the whole cell as YAML, with its teacher's id for the teacher."""
    options: dict[str, Any] = {"default_flow_style": None, "width": _YAML_WIDTH, "allow_unicode": True}
    text: str = yaml.safe_dump(dump_fields(cell), sort_keys=False, **options)
    return text


def _show_ledger(report: CellReport, shown: dict[str, str]) -> Lines:
    """Yield the cell's choices; if another cell's text in `shown` is the same, only that cell's id."""
    yield _heading("what the paper leaves open, as chosen here")
    text = "\n".join(f"{choice.field}: {show(choice.value)}\n    {choice.question}" for choice in report.ledger)
    yield from _block([f"as for {shown[text]}"] if text in shown else text.splitlines())
    shown.setdefault(text, report.cell.cell_id)


def _format_state(report: CellReport) -> Text:
    reason = f": {report.record.reason}" if report.record.reason else ""
    return Text.assemble((report.state, _STATE_STYLES.get(report.state, "")), reason)


def _format_use(use: Use) -> str:
    if use.students:
        return f"{use.table}: teacher of {_count(use.students, 'student')}"
    if use.row:
        return f"{use.table}: {use.row}: {', '.join(use.columns)}"
    return f"{use.table}, which shows no number of it"


def _compare(difference: Difference) -> Lines:
    rows = []
    for side, report in (("a", difference.a), ("b", difference.b)):
        rows.append((side, Text(report.cell.cell_id, style="cyan"), _format_state(report), report.title))
    yield from _columns(("", "cell", "state", ""), rows)
    if difference.equal:
        yield Text("\nThey are one cell: every field is equal.")
        return
    yield _heading(f"the specification differs in {_count(len(difference.fields), 'field')}")
    yield from _field_columns(difference.fields)
    yield _heading("a paired difference" if difference.paired else "no paired difference")
    yield from _block(_describe_shared(difference))
    yield _heading("results of the last epoch")
    if not difference.comparable:
        yield from _block(["Their datasets differ, so these numbers cannot be compared."])
    yield from _metric_columns(difference)
    yield _heading("made with")
    if difference.made_with:
        yield from _field_columns(difference.made_with)
    else:
        known = difference.a.record.provenance and difference.b.record.provenance
        yield from _block(["the same code, versions and hardware" if known else "not known of both yet"])


def _describe_shared(difference: Difference) -> list[str]:
    """Return which batches, teacher and initial weights the cells share."""
    cells = [difference.a.cell, difference.b.cell]
    seeds = list(dict.fromkeys(str(cell.seed) for cell in cells))
    batches = f"{_same(difference.same_batches)} batches (seed{'s' if len(seeds) > 1 else ''} {' and '.join(seeds)})"
    ids = list(dict.fromkeys(cell.teacher.cell_id for cell in cells if cell.teacher is not None))
    teacher = "only one of them has a teacher" if ids else "no teachers"
    if difference.same_teacher is not None:
        noun = "teacher" if difference.same_teacher else "teachers"
        teacher = f"{_same(difference.same_teacher)} {noun} ({' and '.join(ids)})"
    return [batches, teacher, f"{_same(difference.same_start)} initial weights"]


def _same(same: bool) -> str:
    return "the same" if same else "different"


def _metric_columns(difference: Difference) -> Lines:
    if not difference.metrics:
        return _block(["none yet"])
    headers = ["metric"]
    for side, report in (("a", difference.a), ("b", difference.b)):
        last = report.last_epoch
        headers.append(side if last is None or report.state == "finished" else f"{side} (epoch {last.epoch})")
    rows = []
    for metric in difference.metrics:
        sides = [MISSING if number is None else f"{number:.4g}" for number in (metric.a, metric.b)]
        rows.append([metric.metric, *sides, MISSING if metric.difference is None else f"{metric.difference:+.3g}"])
    return _columns([*headers, "a - b"], rows, right=(1, 2, 3))


def _field_columns(fields: Iterable[FieldDifference]) -> Lines:
    rows = [[field.path, _format_value(field.a), _format_value(field.b)] for field in fields]
    return _columns(("field", "a", "b"), rows)


def _format_value(value: Any) -> str:
    return MISSING if value is ABSENT else value if isinstance(value, str) else show(value, 1000)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _format_time(unix_time: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_time))


def _facts(*facts: Fact) -> Lines:
    """Yield labelled lines; a fact of several lines has its label on the first, an empty one is left out."""
    for label, content in facts:
        lines = [content] if isinstance(content, str | Text) else content
        for number, line in enumerate(line for line in lines if line):
            yield Text.assemble((("" if number else label).ljust(_LABEL_WIDTH), "dim"), line)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="dim")


def _block(lines: Iterable[str]) -> Lines:
    return (Text(f"  {line}") for line in lines)


def _columns(headers: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Collection[int] = ()) -> Lines:
    """Yield a table whose lines stay whole on any terminal; `right` are the columns to align to the right."""
    lines = [[Text.assemble(cell) for cell in row] for row in (headers, *rows)]
    for column in range(len(headers)):
        width = max(line[column].cell_len for line in lines)
        for line in lines:
            line[column].align("right" if column in right else "left", width)
    for number, line in enumerate(lines):
        whole = Text("  ", style="dim" if number == 0 else "").join(line)
        whole.rstrip()
        yield whole
