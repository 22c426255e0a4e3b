"""Tables and provenance as CSV: a header line, then data, which any reader loads without options.

The first four columns of a table give the setting of a row, so that no number leaves the file without its scale.
"""

from collections.abc import Iterable

from pld_grid.report.setting import format_epochs, format_models, resolve_epochs, resolve_models
from pld_grid.report.table import Row, Table
from pld_grid.report.value_text import BOUNDS, describe_state, format_fields
from pld_grid.report.values import Sample, Term, Value
from pld_grid.util.csv_text import MISSING, csv_text, full
from pld_grid.util.errors import InputError

SETTING_HEADERS = ("run profile", "run dataset", "run models", "run epochs")
VERSIONS_HEADER = "code versions"
NUMBER_HEADERS = ("table", "row", "column", "seed", "number")
CELL_HEADERS = ("cell_id", "cell_seed", "metric", "cell_value", "state", "mlflow_run_id", "commit")


def list_csv_headers(table: Table) -> list[str]:
    """Return the header of `render_csv`. Raise InputError if two columns would get the same name."""
    headers = list(SETTING_HEADERS)
    for header, parts in zip(table.headers, _list_parts(table), strict=True):
        headers += [header if part == "ours" else f"{header} {part}" for part in parts]
    headers.append(VERSIONS_HEADER)
    for header in headers:
        if headers.count(header) > 1:
            raise InputError(f'table {table.name}: two columns of its CSV would be called "{header}"; rename one')
    return headers


def render_csv(table: Table) -> str:
    """Render a table: each number takes columns for ours, std, n, the paper's, the difference and the state.

    Columns that hold differences also have the bounds of their intervals; the last column names the code versions
    behind a row's numbers. "-" stands for what does not exist. Raise InputError as `list_csv_headers` does.
    """
    headers, all_parts, setting = list_csv_headers(table), _list_parts(table), table.setting
    rows = []
    for row in table.rows:
        models, epochs = format_models(resolve_models(row.entries)), format_epochs(resolve_epochs(row.entries))
        fields = [setting.profile, setting.dataset, models, epochs or setting.teachers]
        for cell, parts in zip(row.cells, all_parts, strict=True):
            if isinstance(cell, Value):
                texts = {**format_fields(cell), "state": describe_state(cell)}
                fields += [texts[part] for part in parts]
            else:
                fields += [cell, *("" for _ in parts[1:])]
        versions = {version for value in row.values for version in value.versions}
        rows.append([*fields, "; ".join(sorted(versions)) or MISSING])
    return csv_text(headers, rows)


def render_provenance(tables: Iterable[Table]) -> str:
    """Render one line per cell behind each number: `number` is the sum of sign x cell_value over a number's lines."""
    rows = [
        _list_provenance(table, row, header, sample, term)
        for table in tables
        for row in table.rows
        for header, value in zip(table.headers, row.cells, strict=True)
        if isinstance(value, Value)
        for sample in value.samples
        for term in sample.terms
    ]
    return csv_text((*NUMBER_HEADERS, "sign", *CELL_HEADERS), rows)


def _list_parts(table: Table) -> list[tuple[str, ...]]:
    """Return the parts of each column; a column of texts has one."""
    return [_list_column_parts(values, bool(table.paper)) for values in table.columns]


def _list_column_parts(values: list[Value], has_paper: bool) -> tuple[str, ...]:
    if not values:
        return ("ours",)
    spread = () if any(value.is_model_size for value in values) else ("std", "n")
    bounds = BOUNDS if any(value.is_difference for value in values) else ()
    paper_std = ("paper std",) if any(value.paper_std for value in values) else ()
    paper = ("paper", *paper_std, "difference") if has_paper else ()
    return ("ours", *spread, *bounds, *paper, "state")


def _list_provenance(table: Table, row: Row, header: str, sample: Sample, term: Term) -> list[str]:
    seed = term.cell_seed if sample.seed is None else sample.seed
    number = [table.name, row.name, header, full(seed), full(sample.number)]
    cell = [term.cell_id, full(term.cell_seed), term.metric, full(term.value), term.status]
    return [*number, "+" if term.sign > 0 else "-", *cell, term.run_id or MISSING, term.commit or MISSING]
