"""The YAML of a grid: blocks of axes, exclusions, and the table that they fill."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from pld_grid.experiment.cell import MAX_EPOCHS, Scalar, Seed, StrictModel
from pld_grid.experiment.table_layout import Layout, as_list

MAX_LABELS = 50
AXES = ("teacher", "student", "epochs", "optimizer", "loss", "hyperparameters", "divergence", "standardization", "seed")
Value = StrictBool | StrictInt | StrictFloat | StrictStr
Epochs = Annotated[StrictInt, Field(ge=1, le=MAX_EPOCHS)]


Names = Annotated[list[StrictStr], BeforeValidator(as_list), Field(min_length=1)]
Values = Annotated[list[Value], BeforeValidator(as_list), Field(min_length=1)]
Sweep = dict[str, Values]
Sweeps = Annotated[list[Sweep], BeforeValidator(as_list), Field(min_length=1)]


class Axes(StrictModel):
    """The seven axes of the paper, `seed` and `epochs`; each is a value or a list of values.

    `hyperparameters` are given by loss: `{kd: {alpha: [0, 0.1]}}`, or a list of such sweeps to vary several together.
    `divergence` sets the hyperparameter of that name, for the losses that have it. `epochs` are numbers, or names of
    the profile's `epochs`.
    """

    teacher: Names | None = None
    student: Names | None = None
    loss: Names | None = None
    hyperparameters: dict[str, Sweeps] | None = None
    optimizer: Names | None = None
    standardization: Names | None = None
    divergence: Names | None = None
    seed: Annotated[list[Seed], BeforeValidator(as_list), Field(min_length=1)] | None = None
    epochs: Annotated[list[Epochs | StrictStr], BeforeValidator(as_list), Field(min_length=1)] | None = None


class Block(Axes):
    """One product of axes.

    A `teacher` block gives the teachers' own cells, a `baseline` block the cell that the table's differences refer to,
    which gets no row. All entries of the block have its `labels`.
    """

    role: Literal["student", "teacher", "baseline"] = "student"
    labels: Annotated[dict[str, Scalar], Field(max_length=MAX_LABELS)] = {}


class GridFile(StrictModel):
    """The YAML of a grid."""

    description: str = ""
    defaults: Axes = Axes()
    cells: Annotated[list[Block], BeforeValidator(as_list), Field(min_length=1)]
    exclude: list[Annotated[dict[str, Values], Field(min_length=1)]] = []
    table: Layout | None = None
