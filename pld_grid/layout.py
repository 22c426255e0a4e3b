"""How a grid's cells become a table: rows, columns, differences. Read from the grid's own YAML.

A row is one combination of the labels named in `rows`; a column shows a label, a fact about a model, a metric of
the cell that `where` picks within the row, or the difference of two columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pld_grid.errors import listing, nearest
from pld_grid.reading import Document, Path_, check_name, show
from pld_grid.spec import Frozen, Scalar

Where = dict[str, Scalar]
Metric = Literal[
    "top1", "top5", "best_top1", "kl_teacher_student", "kl_student_teacher", "train_loss"
]  # fmt: skip
BASELINE = "baseline"
# A grid of a few thousand bytes could otherwise make gigabytes of a table, or hours of drawing. The paper's tables have
# differences of differences (four terms), ten columns, one figure, headers of 17 letters.
MAX_TERMS = 8
MAX_COLUMNS = 100
MAX_DIFFERENCE_ROWS = 100
MAX_FIGURES = 20
MAX_HEADER = 200  # letters


def many(value: Any) -> Any:
    """A list stays one, anything else becomes a list of one."""
    return value if isinstance(value, list) else [value]


class Column(Frozen):
    """One column; exactly one of `axis`, `metric`, `parameters` and `minus` says what it shows.

    `names` maps a label's value to its spelling in this table (several labels: values joined by a space).
    `only` leaves the column blank in rows that do not match.
    """

    header: Annotated[str, Field(min_length=1, max_length=MAX_HEADER)]
    axis: str | list[str] | None = None
    metric: Metric | None = None
    parameters: Literal["student", "teacher"] | None = None
    minus: tuple[str, str] | None = None
    where: Where = {}
    of: Literal["student", "teacher"] = "student"
    names: dict[Scalar, str] = {}
    only: Where = {}
    format: Annotated[str, Field(pattern=r"^\.[0-9]f$")] = ".2f"

    @model_validator(mode="after")
    def _one_kind(self) -> "Column":
        given = [k for k in ("axis", "metric", "parameters", "minus") if getattr(self, k) is not None]
        if len(given) != 1:
            has = " and ".join(given) or "none"
            raise ValueError(f"a column needs exactly one of axis, metric, parameters, minus; it has {has}")
        return self

    @property
    def axes(self) -> list[str]:
        """The labels that an axis column shows; empty for other columns."""
        return [self.axis] if isinstance(self.axis, str) else list(self.axis or [])

    @property
    def is_value(self) -> bool:
        """Whether the column holds a measured number that the paper may print too."""
        return self.metric is not None or self.minus is not None


class DifferenceRow(Frozen):
    """A last row: the rows that match the first of `minus` less those that match the second."""

    header: Annotated[str, Field(max_length=MAX_HEADER)]
    minus: tuple[Where, Where]


class FigureLayout(Frozen):
    """A view of the table: `y` against `x`, all named by the table's headers.

    Each header in `y` is a series; with one `y`, each value of the column `series` may be one. Rows that match one of
    `exclude` are left out. Lines need numbers for `x`; a row that has none becomes a horizontal line.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(check_name)]
    title: Annotated[str, Field(min_length=1)]
    kind: Literal["lines", "bars"]
    x: str
    y: Annotated[list[str], BeforeValidator(many), Field(min_length=1)]
    series: str | None = None
    exclude: list[Annotated[Where, Field(min_length=1)]] = []

    @model_validator(mode="after")
    def _one_kind_of_series(self) -> "FigureLayout":
        if self.series is not None and len(self.y) > 1:
            raise ValueError("several `y` are series already, so there can be no `series`")
        if len(set(self.y)) < len(self.y):
            raise ValueError("`y` names a column twice")
        return self


class PaperDataset(Frozen):
    """The images that a printed table is about: the dataset module, the size in pixels, the name for people."""

    name: str = "imagenet"
    image_size: Annotated[int, Field(ge=1)] = 224
    text: str = "ImageNet-1K at 224x224"


class Layout(Frozen):
    """The table that a grid fills, and the figures that show it."""

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
        """Raises InputError if the table names a label that no cell has, or a loss that does not exist.

        A loss that exists but is not in the grid is fine: its columns stay empty.
        """
        base: Path_ = ("table",)

        def check_where(at: Path_, where: Mapping[str, Scalar]) -> None:
            check_labels(document, at, where, valid)
            if "loss" in where and where["loss"] not in losses:
                message = (
                    f"unknown loss {show(where['loss'])}; valid: {listing(losses)}{nearest(where['loss'], losses)}"
                )
                raise document.error((*at, "loss"), message)

        check_labels(document, (*base, "rows"), self.rows, valid)
        self._check_terms(document)
        for number, column in enumerate(self.columns):
            at = (*base, "columns", number)
            check_labels(document, (*at, "axis"), column.axes, valid)
            check_where((*at, "where"), column.where)
            check_where((*at, "only"), column.only)
            for axis in column.axes:
                if axis not in self.rows:
                    raise document.error((*at, "axis"), f'"{axis}" is not among the rows: {listing(self.rows)}')
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
        """Raises InputError at the first column that comes to too many cells: differences may double them each time."""
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
    """Raises InputError at the first of `names` that is no label of the grid."""
    for name in names:
        if name not in valid:
            path = (*at, name) if (*at, name) in document.lines else at
            raise document.error(
                path, f'"{name}" is no axis or label of this grid; valid: {listing(valid, 20)}{nearest(name, valid)}'
            )


def check_headers(document: Document, at: Path_, headers: Iterable[str], valid: Sequence[str], kind: str) -> None:
    """Raises InputError at the first of `headers` that is no column of that kind."""
    for header in headers:
        if header not in valid:
            message = f'"{header}" is no column of {kind}; valid: {listing(valid, 20)}{nearest(header, valid)}'
            raise document.error(document.at(*at, value=header), message)


def default_layout(varying: list[str]) -> Layout:
    """The table of a grid that describes none: one row per combination of the labels that vary, top-1 and top-5."""
    columns: list[Any] = [Column(header=name, axis=name) for name in varying]
    columns += [Column(header="Top-1", metric="top1"), Column(header="Top-5", metric="top5")]
    return Layout(rows=varying, columns=columns)
