"""Tables and provenance as CSV: a header line, then data, readable without options.

A table's first four columns say with what a row was made, so that no number leaves the file without its scale.
"""

from collections.abc import Iterable

from pld_grid.csvtext import NOTHING, csv_text, full
from pld_grid.errors import InputError
from pld_grid.report.setting import epochs_of, epochs_text, models_of
from pld_grid.report.table import Row, Table
from pld_grid.report.values import BOUNDS, Sample, Term, Value, states, texts

SETTING_HEADERS = ("run profile", "run dataset", "run models", "run epochs")
VERSIONS_HEADER = "code versions"
PROVENANCE_HEADERS = (
    "table", "row", "column", "seed", "number", "sign", "cell_id", "cell_seed", "metric", "cell_value", "state",
    "mlflow_run_id", "commit",
)  # fmt: skip


def table_headers(table: Table) -> list[str]:
    """The header of `table_csv`. Raises InputError if two columns would get the same name."""
    parts = _all_parts(table)
    headers = list(SETTING_HEADERS)
    for index, header in enumerate(table.headers):
        headers += [header if part == "ours" else f"{header} {part}" for part in parts.get(index, ("ours",))]
    headers.append(VERSIONS_HEADER)
    if len(set(headers)) < len(headers):
        twice = next(header for header in headers if headers.count(header) > 1)
        raise InputError(f'table {table.name}: two columns of its CSV would be called "{twice}"; rename one')
    return headers


def table_csv(table: Table) -> str:
    """The table: for each number ours, std, n, the paper's, the difference and the state, in columns of their own.

    Columns that hold differences have the bounds of their intervals too; the last column names the versions of the code
    behind a row's numbers. "-" stands for what there is not. Raises InputError as `table_headers` does.
    """
    headers, parts = table_headers(table), _all_parts(table)
    rows = []
    for row in table.rows:
        fields = _setting(table, row)
        for index, cell in enumerate(row.cells):
            if isinstance(cell, Value):
                said = {**texts(cell), "state": states(cell)}
                fields += [said[part] for part in parts[index]]
            else:
                fields += [cell, *("" for _ in parts.get(index, ("ours",))[1:])]
        versions = {version for cell in row.cells if isinstance(cell, Value) for version in cell.versions}
        rows.append([*fields, "; ".join(sorted(versions)) or NOTHING])
    return csv_text(headers, rows)


def provenance_csv(tables: Iterable[Table]) -> str:
    """One line per cell behind each number: `number` is the sum of sign x cell_value over a number's lines."""
    rows = []
    for table in tables:
        for row in table.rows:
            for header, cell in zip(table.headers, row.cells, strict=True):
                if isinstance(cell, Value):
                    for sample in cell.samples:
                        rows += [_provenance(table, row, header, sample, term) for term in sample.terms]
    return csv_text(PROVENANCE_HEADERS, rows)


def _all_parts(table: Table) -> dict[int, tuple[str, ...]]:
    """The parts of each column that holds numbers."""
    return {index: _parts(table, index) for index in range(len(table.headers)) if table.is_value(index)}


def _parts(table: Table, index: int) -> tuple[str, ...]:
    values = [cell for cell in (row.cells[index] for row in table.rows) if isinstance(cell, Value)]
    spread = () if any(value.fact for value in values) else ("std", "n")
    bounds = BOUNDS if any(value.is_difference for value in values) else ()
    printed_std = ("paper std",) if any(value.paper_std for value in values) else ()
    compared = ("paper", *printed_std, "difference") if table.paper else ()
    return ("ours", *spread, *bounds, *compared, "state")


def _setting(table: Table, row: Row) -> list[str]:
    setting = table.setting
    models = "; ".join(f"{name}: {text}" for name, text in models_of(row.entries).items())
    epochs = "; ".join(epochs_text(named, run) for named, run in epochs_of(row.entries).items())
    return [setting.profile, setting.dataset, models, epochs or setting.teachers]


def _provenance(table: Table, row: Row, header: str, sample: Sample, term: Term) -> list[str]:
    seed = sample.seed if sample.seed is not None else term.cell_seed
    return [
        table.name, row.name, header, full(seed), full(sample.number), "+" if term.sign > 0 else "-",
        term.cell_id, full(term.cell_seed), term.metric, full(term.value), term.why, term.run_id or NOTHING,
        term.commit or NOTHING,
    ]  # fmt: skip
