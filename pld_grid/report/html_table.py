"""A table as the HTML page shows it: links to runs, states, rows to sort."""

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple
from urllib.parse import quote

from pld_grid.experiment.describe import describe_loss
from pld_grid.report.table import Row, Table
from pld_grid.report.values import Term, Value
from pld_grid.store.records import Records


class State(NamedTuple):
    """The state of a cell. Marks differ in shape, so that they are distinguishable without colours."""

    name: str
    mark: str
    meaning: str

    @property
    def slug(self) -> str:
        """The name in classes and attributes."""
        return self.name.replace(" ", "-")


STATES = {
    state.name: state
    for state in (
        State("finished", "●", "has a result"),
        State("unfinished", "◐", "is training, or continues from its last checkpoint"),
        State("queued", "○", "waits for a free slot"),
        State("cancelled", "■", "was stopped; a new run continues from its last checkpoint"),
        State("failed", "✕", "ended with an error"),
        State("lost", "✝", "was given up after its worker process ended repeatedly"),
        State("diverged", "▲", "reached a loss, weights or a metric that are not finite"),
        State("not run", "–", "has not started and is not scheduled"),
    )
}
_OTHER = State("other", "?", "has no such number")


def parse_state(text: str) -> State:
    """Return the state at the start of a text: `unfinished (epoch 3 of 10)` is `unfinished`."""
    return next((s for name, s in STATES.items() if text == name or text.startswith(f"{name} (")), _OTHER)


class TableView:
    """A table, and what its page computes for it.

    Attributes:
        id: A name that is unique on the page.
        short: The title's number: `Table 1`.
        rest: The rest of the title.
        counts: How many cells are in each state.
        body: The rows to sort, with their places.
        foot: The last rows, if all of their numbers are differences: they are not sorted with the others.
        has_spread: Whether the numbers of a column leave room for a spread, so that they align.
    """

    def __init__(self, table: Table, records: Records, mlflow: str) -> None:
        """Show a table with the records by cell id, and links to runs at the address of MLflow's UI."""
        self.table, self.records, self.mlflow = table, records, mlflow
        self.id = quote(table.name, safe="")
        self.short, _, self.rest = table.title.partition(": ")
        self.counts = Counter(parse_state(state).name for state in table.states.values())
        rows = list(enumerate(table.rows))
        last_differences = list(takewhile(_is_difference_row, reversed(table.rows)))
        # In a table that begins with a row of differences, these are ordinary rows.
        body_size = len(rows) - (0 if table.rows and _is_difference_row(table.rows[0]) else len(last_differences))
        self.body, self.foot = rows[:body_size], rows[body_size:]
        self.has_spread = [
            any(value.planned > 1 and not value.is_model_size for value in values) for values in table.columns
        ]

    def list_states(self, row: Row) -> list[str]:
        """Return the states of a row's missing cells."""
        states = dict.fromkeys(parse_state(term.state).slug for value in row.values for term in value.missing)
        return list(states) or ["finished"]

    def make_url(self, term: Term) -> str:
        """Return the URL of a cell's run; empty if it has none."""
        record = self.records.get(term.cell_id)
        return make_run_url(self.mlflow, record.experiment_id if record else "", term.run_id)

    def describe_cell(self, term: Term) -> str:
        """Return what tells the cells behind one number apart."""
        cell = self.table.cells.get(term.cell_id)
        if cell is None:
            return ""
        student, loss = cell.student.architecture, describe_loss(cell.loss)
        return f"{student}, {loss}, {cell.optimizer.name}, {cell.epochs} epochs"


def make_run_url(mlflow: str, experiment_id: str, run_id: str) -> str:
    """Return the URL of a run in MLflow's UI; empty without a run. An unknown experiment is 0, MLflow's default."""
    experiment, run = quote(experiment_id or "0", safe=""), quote(run_id, safe="")
    return f"{mlflow}/#/experiments/{experiment}/runs/{run}" if run_id else ""


def collect_states(views: Sequence[TableView]) -> list[State]:
    """Return the states that any cell of the tables is in, in their usual order."""
    names = {name for view in views for name in view.counts}
    return [state for state in [*STATES.values(), _OTHER] if state.name in names]


def _is_difference_row(row: Row) -> bool:
    values = [value for value in row.values if not value.is_model_size]
    return bool(values) and all(value.is_difference for value in values)


def list_missing(value: Value) -> list[tuple[State, str]]:
    """Return why cells are missing, each reason once, with the seeds that it applies to if there are several."""
    seeds: dict[tuple[State, str], set[int]] = {}
    for term in value.missing:
        affected = seeds.setdefault((parse_state(term.state), term.status), set())
        if value.planned > 1 and term.cell_seed is not None:
            affected.add(term.cell_seed)
    return [(state, _name_seeds(sorted(affected)) + status) for (state, status), affected in seeds.items()]


def _name_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: " if seeds else ""
