"""A table as its part of the HTML page needs it: texts, sort keys, links to runs, states."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pld_grid.csvtext import NOTHING, full
from pld_grid.records import Records
from pld_grid.report.caption import MARK, captions, numbers_caption
from pld_grid.report.setting import Setting
from pld_grid.report.table import Row, Table
from pld_grid.report.values import Sample, Term, Value, interval_text, printed, spread_text, texts
from pld_grid.spec import Cell


@dataclass(frozen=True)
class State:
    """What became of a cell. Marks differ in shape, so that nobody has to tell colours apart."""

    name: str
    mark: str
    meaning: str

    @property
    def slug(self) -> str:
        """Its name in classes and attributes."""
        return self.name.replace(" ", "-")


STATES = {
    state.name: state
    for state in (
        State("finished", "●", "has a result"),
        State("unfinished", "◐", "trains, or goes on from its last checkpoint"),
        State("queued", "○", "waits for its turn"),
        State("cancelled", "■", "was stopped, and goes on from its last checkpoint"),
        State("failed", "✕", "ended with an error"),
        State("lost", "✝", "went with its worker, again and again"),
        State("diverged", "▲", "left the finite numbers"),
        State("stale", "◇", "has a result under an earlier specification only"),
        State("not run", "–", "has not begun, and nothing is planned"),
    )
}
_OTHER = State("other", "?", "has no such number")


def state_of(text: str) -> State:
    """The state that a text begins with: `unfinished (epoch 3 of 10)` is `unfinished`."""
    known = [state for name, state in STATES.items() if text == name or text.startswith(f"{name} (")]
    return known[0] if known else _OTHER


@dataclass(frozen=True)
class Part:
    """One cell's part of a number: with its sign, what was trained, and where its run is (or an empty address)."""

    sign: str
    cell_id: str
    what: str
    number: str
    state: State
    why: str
    run: str


@dataclass(frozen=True)
class SeedLine:
    """A number under one seed, and the cells that make it."""

    seed: str
    number: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Missing:
    """Why a number is not there, or not whole."""

    state: State
    text: str


@dataclass(frozen=True)
class Number:
    """A number's place in the table. `keys` are what sorting goes by, unrounded, "-" where there is none; `spread` is
    None where its column has none.

    `run` is the address of its run where one cell makes it; all others have their cells listed in `lines`.
    """

    id: str
    name: str
    texts: dict[str, str]
    keys: dict[str, str]
    spread: str | None
    interval: str
    bootstrap: str
    n: str
    mark: str
    missing: tuple[Missing, ...]
    run: str
    hint: str
    lines: tuple[SeedLine, ...]


@dataclass(frozen=True)
class Line:
    """A row: texts and numbers, and the states of the cells that it lacks."""

    cells: tuple[str | Number, ...]
    states: tuple[str, ...]


@dataclass(frozen=True)
class TableView:
    """A whole table. `foot` are its last rows where all numbers are differences: they are not sorted with the rest.

    `counts` says how many of its cells are in each state; `numbers` and `captions` what its numbers are.
    """

    id: str
    name: str
    title: str
    short: str
    rest: str
    compared: bool
    numbers: str
    captions: dict[str, str]
    headers: tuple[tuple[str, bool], ...]
    body: tuple[Line, ...]
    foot: tuple[Line, ...]
    counts: dict[str, int]
    setting: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def done(self) -> int:
        """How many of its cells are finished."""
        return self.counts.get("finished", 0)

    @property
    def planned(self) -> int:
        """How many cells it has."""
        return sum(self.counts.values())


def table_view(table: Table, records: Records, mlflow: str) -> TableView:
    """The table with links into the MLflow at the address `mlflow`."""
    maker = _Maker(table, records, mlflow)
    lines = [maker.line(place, row) for place, row in enumerate(table.rows)]
    first_of_foot = len(lines)
    while first_of_foot > 1 and _only_differences(table.rows[first_of_foot - 1]):
        first_of_foot -= 1
    if _only_differences(table.rows[0]) if table.rows else True:
        first_of_foot = len(lines)
    short, _, rest = table.title.partition(": ")
    counts = Counter(state_of(state).name for state in table.states.values())
    return TableView(
        id=quote(table.name, safe=""),
        name=table.name,
        title=table.title,
        short=short,
        rest=rest,
        compared=bool(table.paper),
        numbers=numbers_caption(table),
        captions=captions(table),
        headers=tuple((header, table.is_value(i)) for i, header in enumerate(table.headers)),
        body=tuple(lines[:first_of_foot]),
        foot=tuple(lines[first_of_foot:]),
        counts=dict(counts),
        setting=tuple(_setting(table.setting, bool(table.paper))),
    )


def run_address(mlflow: str, experiment_id: str, run_id: str) -> str:
    """Where MLflow's UI shows a run; empty where there is no run. An unknown experiment is 0, MLflow's own."""
    experiment, run = quote(experiment_id or "0", safe=""), quote(run_id, safe="")
    return f"{mlflow}/#/experiments/{experiment}/runs/{run}" if run_id else ""


def _only_differences(row: Row) -> bool:
    values = [cell for cell in row.cells if isinstance(cell, Value) and not cell.fact]
    return bool(values) and all(value.is_difference for value in values)


def _setting(setting: Setting, paper: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Label and lines of what the numbers were made with."""
    named = "the paper's" if paper else "the grid's"
    n = len(setting.seeds)
    yield "Profile", (f"{setting.profile}: {setting.description}",)
    yield "Dataset", (setting.dataset,)
    yield "Models", tuple(f"{name}: {text}" for name, text in setting.models.items())
    yield "Teachers", (setting.teachers,)
    yield (
        "Epochs",
        tuple(str(run) if run == given else f"{run} for {named} {given}" for given, run in setting.epochs.items()),
    )
    yield "Batches", (setting.recipe,)
    yield "Seeds", (f"{', '.join(map(str, setting.seeds)) or 'none'} (n = {n})",)


class _Maker:
    """One pass over a table's rows."""

    def __init__(self, table: Table, records: Records, mlflow: str) -> None:
        self.table, self.records, self.mlflow = table, records, mlflow
        several = [[isinstance(c, Value) and c.wanted > 1 and not c.fact for c in row.cells] for row in table.rows]
        # All numbers of a column leave room for a spread where one of them may have one, so that they stand in line.
        self.spreads = [any(column) for column in zip(*several, strict=True)]

    def line(self, place: int, row: Row) -> Line:
        cells: list[str | Number] = []
        states: dict[str, None] = {}
        for index, (header, cell) in enumerate(zip(self.table.headers, row.cells, strict=True)):
            if isinstance(cell, Value):
                name = f"{header}, {row.name}"
                cells.append(self.number(f"{quote(self.table.name, safe='')}.{place}.{index}", name, cell, index))
                states |= dict.fromkeys(state_of(term.state).slug for term in cell.missing)
            else:
                cells.append(cell)
        return Line(tuple(cells), tuple(states) or ("finished",))

    def number(self, place: str, name: str, value: Value, column: int) -> Number:
        said = texts(value)
        terms = [term for sample in value.samples for term in sample.terms]
        run = self.run(terms[0]) if len(terms) == 1 else ""
        keys = {"ours": full(value.mean), "paper": value.paper or NOTHING, "difference": full(value.difference)}
        found = value.interval
        return Number(
            id=place,
            name=name,
            texts={"ours": said["ours"], "paper": printed(value), "difference": said["difference"]},
            keys=keys,
            spread=spread_text(value).strip() if self.spreads[column] else None,
            interval=interval_text(value) if value.is_difference else "",
            bootstrap=f"[{said['bootstrap low']}, {said['bootstrap high']}]" if found else "",
            n=f"n = {value.n}" + (f" of {value.wanted}" if value.n < value.wanted else ""),
            mark=MARK if value.other_version else "",
            missing=_missing(value),
            run=run,
            hint=_hint(terms[0]) if run else "",
            lines=() if run else tuple(self.seed_line(sample, value) for sample in value.samples),
        )

    def seed_line(self, sample: Sample, value: Value) -> SeedLine:
        seed = sample.seed if sample.seed is not None else sample.terms[0].cell_seed
        parts = tuple(self.part(term, len(sample.terms) > 1) for term in sample.terms)
        return SeedLine(NOTHING if seed is None else str(seed), full(sample.number), parts)

    def part(self, term: Term, signed: bool) -> Part:
        cell = self.table.cells.get(term.cell_id)
        return Part(
            sign=("+" if term.sign > 0 else "−") if signed else "",
            cell_id=term.cell_id,
            what=_what(cell) if cell is not None else "",
            number=full(term.value),
            state=state_of(term.state),
            why=term.why,
            run=self.run(term),
        )

    def run(self, term: Term) -> str:
        record = self.records.get(term.cell_id)
        return run_address(self.mlflow, record.experiment_id if record else "", term.run_id)


def _missing(value: Value) -> tuple[Missing, ...]:
    """Why cells are missing, each reason once; several seeds say which of them lack a cell for it."""
    seeds: dict[tuple[State, str], dict[int, None]] = {}
    for term in value.missing:
        found = seeds.setdefault((state_of(term.state), term.why), {})
        if value.wanted > 1 and term.cell_seed is not None:
            found[term.cell_seed] = None
    return tuple(Missing(state, _of_seeds(sorted(found)) + why) for (state, why), found in seeds.items())


def _of_seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return ""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: "


def _hint(term: Term) -> str:
    seed = "" if term.cell_seed is None else f", seed {term.cell_seed}"
    return f"cell {term.cell_id}{seed}: its run in MLflow"


def _what(cell: Cell) -> str:
    """Loss with hyperparameters, optimizer: what tells the cells behind one number apart."""
    given = ", ".join(f"{name}={_value(value)}" for name, value in cell.loss.hyperparameters.items())
    loss = f"{cell.loss.name}({given})" if given else cell.loss.name
    return f"{cell.student.architecture}, {loss}, {cell.optimizer.name}, {cell.epochs} epochs"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def states_present(tables: Sequence[TableView]) -> list[State]:
    """The states that any cell of the tables is in, in their usual order."""
    found = {name for table in tables for name in table.counts}
    return [state for state in [*STATES.values(), _OTHER] if state.name in found]
