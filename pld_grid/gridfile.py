"""What a grid's YAML may say: blocks of axes, exclusions, and the table that they fill."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from pld_grid.layout import Layout, many
from pld_grid.spec import MAX_EPOCHS, Frozen, Scalar, Seed

MAX_LABELS = 50
AXES = ("teacher", "student", "epochs", "optimizer", "loss", "hyperparameters", "divergence", "standardization", "seed")
Value = StrictBool | StrictInt | StrictFloat | StrictStr
Epochs = Annotated[StrictInt, Field(ge=1, le=MAX_EPOCHS)]


Names = Annotated[list[StrictStr], BeforeValidator(many), Field(min_length=1)]
Values = Annotated[list[Value], BeforeValidator(many), Field(min_length=1)]
Sweep = dict[str, Values]
Sweeps = Annotated[list[Sweep], BeforeValidator(many), Field(min_length=1)]


class Axes(Frozen):
    """The seven axes of the paper, `seed` and `epochs`; each is a value or a list of values.

    `hyperparameters` belong to their loss: `{kd: {alpha: [0, 0.1]}}`, or a list of such sweeps to move several
    together. `divergence` is the hyperparameter of that name, for the losses that have it.
    """

    teacher: Names | None = None
    student: Names | None = None
    loss: Names | None = None
    hyperparameters: dict[str, Sweeps] | None = None
    optimizer: Names | None = None
    standardization: Names | None = None
    divergence: Names | None = None
    seed: Annotated[list[Seed], BeforeValidator(many), Field(min_length=1)] | None = None
    epochs: Annotated[list[Epochs], BeforeValidator(many), Field(min_length=1)] | None = None


class Block(Axes):
    """One product of axes. A `teacher` block stands for the teachers' own cells; a `baseline` block for the cell
    that the table's differences refer to, which gets no row."""

    role: Literal["student", "teacher", "baseline"] = "student"
    # Every entry of the block has them all.
    labels: Annotated[dict[str, Scalar], Field(max_length=MAX_LABELS)] = {}


class GridFile(Frozen):
    """The YAML of a grid."""

    description: str = ""
    defaults: Axes = Axes()
    cells: Annotated[list[Block], BeforeValidator(many), Field(min_length=1)]
    exclude: list[Annotated[dict[str, Values], Field(min_length=1)]] = []
    table: Layout | None = None
