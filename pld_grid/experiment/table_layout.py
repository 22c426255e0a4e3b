"""The layout of a grid's table: rows, columns, differences and figures, as the grid's YAML describes them.

A row is one combination of the labels named in `rows`. A column shows a label, the size of a model, a metric of the
cell that `where` selects within the row, or the difference of two columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pld_grid.experiment.cell import Scalar, StrictModel
from pld_grid.experiment.metrics import METRICS, TOP1, TOP5
from pld_grid.util.strict_yaml import Document, Path_
from pld_grid.util.text import check_name, join_names, show, unknown, valid_names

Where = dict[str, Scalar]
BASELINE = "baseline"
# Without limits, a grid of a few thousand bytes could make gigabytes of a table, or take hours to draw. The paper's
# tables need differences of differences (four terms), ten columns, one figure and headers of 17 letters.
MAX_TERMS = 8
MAX_COLUMNS = 100
MAX_DIFFERENCE_ROWS = 100
MAX_FIGURES = 20
MAX_HEADER = 200  # letters


def as_list(value: Any) -> Any:
    """Return a list as it is, and anything else as a list of one item."""
    return value if isinstance(value, list) else [value]


def only_key(model: StrictModel, names: Sequence[str], what: str) -> str:
    """Return the one of the fields that is set. Raises ValueError if none or several are."""
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"{what} needs exactly one of {', '.join(names)}; it has {' and '.join(given) or 'none'}")
    return given[0]


def _check_metric(name: str) -> str:
    valid = [metric.name for metric in METRICS.values() if metric.in_tables]
    if name not in valid:
        raise ValueError(unknown("metric", name, valid))
    return name


# The name of a metric that a table may show.
TableMetric = Annotated[str, AfterValidator(_check_metric)]


class Column(StrictModel):
    """One column, which shows exactly one of `axis`, `metric`, `parameters` and `minus`.

    `names` maps a label's value to its spelling in this table; values of several labels are joined by a space. The
    column is blank in rows that do not match `only`.
    """

    header: Annotated[str, Field(min_length=1, max_length=MAX_HEADER)]
    axis: str | list[str] | None = None
    metric: TableMetric | None = None
    parameters: Literal["student", "teacher"] | None = None
    minus: tuple[str, str] | None = None
    where: Where = {}
    of: Literal["student", "teacher"] = "student"
    names: dict[Scalar, str] = {}
    only: Where = {}
    format: Annotated[str, Field(pattern=r"^\.[0-9]f$")] = ".2f"

    @model_validator(mode="after")
    def _one_kind(self) -> "Column":
        only_key(self, ("axis", "metric", "parameters", "minus"), "a column")
        return self

    @property
    def axes(self) -> list[str]:
        """The labels that an axis column shows; empty for other columns."""
        return [self.axis] if isinstance(self.axis, str) else list(self.axis or [])

    @property
    def is_value(self) -> bool:
        """Whether the column holds a measured number that the paper may print too."""
        return self.metric is not None or self.minus is not None


class DifferenceRow(StrictModel):
    """A row at the end: the rows that match the first item of `minus`, minus those that match the second."""

    header: Annotated[str, Field(max_length=MAX_HEADER)]
    minus: tuple[Where, Where]


class FigureLayout(StrictModel):
    """A figure of the table: `y` against `x`, which are headers of columns.

    Each header in `y` is a series; with one `y`, each value of the column `series` may be one. Rows that match an item
    of `exclude` are left out. Lines need numbers for `x`; a row without a number becomes a horizontal line.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(check_name)]
    title: Annotated[str, Field(min_length=1)]
    kind: Literal["lines", "bars"]
    x: str
    y: Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
    series: str | None = None
    exclude: list[Annotated[Where, Field(min_length=1)]] = []

    @model_validator(mode="after")
    def _one_kind_of_series(self) -> "FigureLayout":
        if self.series is not None and len(self.y) > 1:
            raise ValueError("several `y` are series already, so there can be no `series`")
        if len(set(self.y)) < len(self.y):
            raise ValueError("`y` names a column twice")
        return self


class PaperDataset(StrictModel):
    """The images of a printed table: the dataset module, the size in pixels, and the name for people."""

    name: str = "imagenet"
    image_size: Annotated[int, Field(ge=1)] = 224
    text: str = "ImageNet-1K at 224x224"


class Layout(StrictModel):
    """The table of a grid, and its figures."""

    title: str = ""
    rows: list[str] = []
    columns: Annotated[list[Column], Field(max_length=MAX_COLUMNS)] = []
    difference_rows: Annotated[list[DifferenceRow], Field(max_length=MAX_DIFFERENCE_ROWS)] = []
    paper: Annotated[str, AfterValidator(check_name)] | None = None
    paper_dataset: PaperDataset = PaperDataset()
    figures: Annotated[list[FigureLayout], Field(max_length=MAX_FIGURES)] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Layout":
        if len(set(self.rows)) < len(self.rows):
            raise ValueError("`rows` names a label twice")
        seen: set[str] = set()
        for column in self.columns:
            if column.header in seen:
                raise ValueError(f'two columns are called "{column.header}"')
            for operand in column.minus or ():
                if operand != BASELINE and operand not in seen:
                    raise ValueError(f'column "{column.header}" subtracts "{operand}", which is no column before it')
            seen.add(column.header)
        names = [figure.name for figure in self.figures]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'two figures are called "{name}"')
        return self

    def check(self, document: Document, valid: set[str], losses: set[str]) -> None:
        """Raise InputError if the table names a label that no cell has, or an unknown loss.

        The columns of a loss that is not in this grid stay empty.

        Args:
            document: the grid's YAML, whose lines the errors name.
            valid: the labels of the grid's cells.
            losses: all losses.
        """
        base: Path_ = ("table",)

        def check_where(at: Path_, where: Mapping[str, Scalar]) -> None:
            check_labels(document, at, where, valid)
            if "loss" in where and where["loss"] not in losses:
                valid_losses = valid_names(where["loss"], losses)
                raise document.error((*at, "loss"), f"unknown loss {show(where['loss'])}; valid: {valid_losses}")

        check_labels(document, (*base, "rows"), self.rows, valid)
        self._check_terms(document)
        for number, column in enumerate(self.columns):
            at = (*base, "columns", number)
            check_labels(document, (*at, "axis"), column.axes, valid)
            check_where((*at, "where"), column.where)
            check_where((*at, "only"), column.only)
            for axis in column.axes:
                if axis not in self.rows:
                    raise document.error((*at, "axis"), f'"{axis}" is not among the rows: {join_names(self.rows)}')
        for number, row in enumerate(self.difference_rows):
            for side, where in enumerate(row.minus):
                check_where((*base, "difference_rows", number, "minus", side), where)
        keys = [column.header for column in self.columns if column.axes]
        values = [column.header for column in self.columns if column.is_value]
        for number, figure in enumerate(self.figures):
            at = (*base, "figures", number)
            check_headers(document, (*at, "x"), [figure.x], keys, "labels")
            check_headers(document, (*at, "y"), figure.y, values, "measured numbers")
            check_headers(document, (*at, "series"), [figure.series] if figure.series else [], keys, "labels")
            for rule, where in enumerate(figure.exclude):
                check_where((*at, "exclude", rule), where)

    def _check_terms(self, document: Document) -> None:
        """Raise InputError for a column of too many terms: each difference may double their number."""
        terms: dict[str, int] = {}
        for number, column in enumerate(self.columns):
            terms[column.header] = sum(terms.get(operand, 1) for operand in column.minus) if column.minus else 1
            if terms[column.header] > MAX_TERMS:
                raise document.error(
                    ("table", "columns", number, "minus"),
                    f'column "{column.header}" comes to {terms[column.header]} cells for each number; {MAX_TERMS} are '
                    "the most",
                )


def check_labels(document: Document, at: Path_, names: Iterable[str], valid: set[str]) -> None:
    """Raise InputError at the first of `names` that is no label of the grid."""
    for name in names:
        if name not in valid:
            path = (*at, name) if (*at, name) in document.lines else at
            message = f'"{name}" is no axis or label of this grid; valid: {valid_names(name, valid, 20)}'
            raise document.error(path, message)


def check_headers(document: Document, at: Path_, headers: Iterable[str], valid: Sequence[str], kind: str) -> None:
    """Raise InputError at the first of `headers` that is no column of that kind."""
    for header in headers:
        if header not in valid:
            message = f'"{header}" is no column of {kind}; valid: {valid_names(header, valid, 20)}'
            raise document.error(document.locate(*at, value=header), message)


def default_layout(varying: list[str]) -> Layout:
    """Return the layout for a grid without one: a row per combination of the varying labels, with top-1 and top-5."""
    columns: list[Any] = [Column(header=name, axis=name) for name in varying]
    columns += [Column(header=m.short_label.capitalize(), metric=m.name) for m in (TOP1, TOP5)]
    return Layout(rows=varying, columns=columns)
