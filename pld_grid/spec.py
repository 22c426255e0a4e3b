"""What one training is: `Cell` and its parts, and the name that its content gives it.

A cell holds everything that can change a number and nothing that cannot: no paths, workers, devices or cohort
sizes. Defaults are part of it, so a changed default is a different cell and never reuses an old result.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

SPEC_VERSION = 1
MAX_EPOCHS = 100_000


def _one_zero(value: float) -> float:
    """-0.0 == 0.0 but their JSON differs; one number must have one name."""
    return value + 0.0


Scalar = str | bool | int | float
# Strict: "128" and true are no numbers (an int is a float, though).
Number = Annotated[float, Field(allow_inf_nan=False, strict=True), AfterValidator(_one_zero)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Standardization = Literal["none", "both", "teacher"]


def _plain(value: Any, name: str) -> Any:
    """A value as JSON keeps it: lists for tuples, text keys, finite numbers, one zero."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not a finite number")
        return _one_zero(value)
    if isinstance(value, list | tuple):
        return [_plain(inner, name) for inner in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner, name) for key, inner in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    raise ValueError(f"{name}: {value!r} is no plain value")


class Frozen(BaseModel):
    """Immutable, and strict about keys: a misspelt key must never be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @cached_property
    def canonical(self) -> str:
        """`canonical_json` of this, made once: thousands of cells share their parts."""
        return canonical_json(self)

    def __copy__(self) -> Self:
        # A copy is about to be changed (`model_copy`): it must not keep what was made of the original.
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


@dataclass(frozen=True)
class OpenQuestion:
    """Marks a field as an entry of the ambiguity ledger: what the paper leaves open there, and where."""

    text: str


class Dataset(Frozen):
    """Which images, at which size. `name` is a module of `pld_grid.train.data`, `revision` that module's."""

    name: str
    revision: Count = 1
    num_classes: Annotated[int, Field(ge=2, strict=True)]
    channels: Literal[1, 3] = 3
    image_size: Count


class Augmentation(Frozen):
    """Training-time image transforms; each draw depends on (seed, epoch, sample index) alone."""

    crop: Literal["none", "padded", "random_resized"] = "none"
    padding: Annotated[int, Field(ge=0, strict=True)] = 0
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    horizontal_flip: Flag = False

    @model_validator(mode="after")
    def _consistent(self) -> "Augmentation":
        if not self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must rise and end at 1 at most, not {list(self.scale)}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must rise, not {list(self.ratio)}")
        return self


class Recipe(Frozen):
    """How batches are made and the learning rate moves; shared by all cells of a profile.

    `batch_size` images make one optimizer step, in micro-batches of `micro_batch_size`: BatchNorm's statistics and
    DIST's intra term belong to the micro-batch, so the number of devices is not part of the experiment.
    """

    batch_size: Count
    micro_batch_size: Count
    warmup_epochs: NonNegative = 5
    warmup_learning_rate: NonNegative = 0.0
    final_learning_rate: NonNegative = 0.0
    schedule: Literal["cosine"] = "cosine"
    augmentation: Augmentation = Augmentation()
    mean: tuple[Number, ...]
    std: tuple[Positive, ...]
    evaluation_crop: Annotated[Positive, Field(le=1)] = 1.0
    resize_rounding: Annotated[
        Literal["ceil", "floor"],
        OpenQuestion("Resize before the centre crop: section 5 prints ceil(224/0.95) = 236; timm floors to 235."),
    ] = "ceil"
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        OpenQuestion("The data type of mixed precision is not stated (A100s: bfloat16 is likely)."),
    ] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values, std has {len(self.std)}")
        return self


class Optimizer(Frozen):
    """One of timm's optimizers, with its own learning rate and keywords."""

    name: str
    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    decay_norm_and_bias: Annotated[
        Flag,
        OpenQuestion("Whether norm and bias parameters decay is not stated; timm's default exempts them."),
    ] = False
    options: dict[str, Scalar | list[Number] | None] = {}

    @field_validator("options")
    @classmethod
    def _json(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {key: _plain(inner, key) for key, inner in value.items()}


class Pretrained(Frozen):
    """Published weights of a timm model and the input normalisation that they were trained with."""

    tag: Annotated[
        str,
        OpenQuestion("The teachers' checkpoints are not named: timm tags nearest to the printed accuracy."),
    ]
    mean: Annotated[
        tuple[Number, ...] | None,
        OpenQuestion("A teacher's own input normalisation; null: the recipe's, as section 5 says for all."),
    ] = None
    std: tuple[Positive, ...] | None = None


class Model(Frozen):
    """A timm architecture with its keywords; `pretrained` is null for a model trained from scratch."""

    architecture: str
    options: dict[str, Any] = {}
    pretrained: Pretrained | None = None

    @field_validator("options")
    @classmethod
    def _json(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {key: _plain(inner, key) for key, inner in value.items()}


class Loss(Frozen):
    """A member of `pld_grid.train.losses` with all its hyperparameters, defaults included."""

    name: str
    hyperparameters: dict[str, Scalar] = {}
    standardization: Standardization = "none"

    @field_validator("hyperparameters")
    @classmethod
    def _numbers(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        # A hyperparameter is a real number: 2 and 2.0 are one.
        numbers = {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in value.items()}
        return {k: _plain(v, k) for k, v in numbers.items()}


class Conventions(Frozen):
    """Choices that the paper leaves open and that hold for every cell; each has the one value implemented."""

    kd_temperature_scale: Annotated[
        Literal["tau^2"],
        OpenQuestion(
            "KD's distillation term is scaled by tau^2 (section 3.1 has it, Appendix G omits it), for every "
            "divergence and at alpha = 0 too."
        ),
    ] = "tau^2"
    position_weights: Annotated[
        Literal["2^(C-k)-1"],
        OpenQuestion(
            "pListMLE's weights: section 4.2's; section 5.1.1's formula equals PLD at tau = 1, yet Table 2 "
            "prints another number for it."
        ),
    ] = "2^(C-k)-1"
    standardization_ddof: Annotated[
        Literal[1],
        OpenQuestion("Standardized logits divide by the sample standard deviation (n - 1), plus 1e-7."),
    ] = 1
    accuracy_epoch: Annotated[
        Literal["last"],
        OpenQuestion("Tables print the last epoch's accuracy; the best epoch is recorded beside it."),
    ] = "last"
    kl_direction: Annotated[
        Literal["teacher||student"],
        OpenQuestion("Table 10's direction: KL(q_t||q_s); the other one is recorded beside it."),
    ] = "teacher||student"
    kl_temperature: Annotated[
        Literal[1],
        OpenQuestion("Table 10's temperature, over the validation set."),
    ] = 1
    weight_averaging: Annotated[
        Literal["none"],
        OpenQuestion("An exponential moving average of weights is not mentioned; none is kept."),
    ] = "none"
    schedule_step: Annotated[
        Literal["update"],
        OpenQuestion("The learning rate moves at every optimizer step, not once per epoch."),
    ] = "update"
    last_partial_batch: Annotated[
        Literal["dropped"],
        OpenQuestion("The images of an epoch that do not fill a batch are left out of that epoch."),
    ] = "dropped"


class Cell(Frozen):
    """One training, fully resolved. `epochs` 0 stands for a measurement of published weights, without training.

    A teacher is a cell itself, so a student's name covers everything that made its teacher.
    """

    spec_version: Count = SPEC_VERSION
    dataset: Dataset
    recipe: Recipe
    teacher: "Cell | None" = None
    student: Model
    loss: Loss
    optimizer: Optimizer
    epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS, strict=True)]
    seed: Seed = 0
    conventions: Conventions = Conventions()

    @model_validator(mode="after")
    def _consistent(self) -> "Cell":
        if len(self.recipe.mean) != self.dataset.channels:
            raise ValueError(f"mean has {len(self.recipe.mean)} values for {self.dataset.channels} channel(s)")
        if self.student.pretrained is None and self.epochs == 0:
            raise ValueError("a model without published weights needs at least one epoch")
        if self.teacher is not None and self.teacher.dataset != self.dataset:
            raise ValueError(
                f"the teacher was made for {self.teacher.dataset.name} with {self.teacher.dataset.num_classes} classes"
                f" at {self.teacher.dataset.image_size} pixels, the student for {self.dataset.name} with"
                f" {self.dataset.num_classes} at {self.dataset.image_size}"
            )
        return self

    @cached_property
    def cell_id(self) -> str:
        """First 16 hex digits of the SHA-256 over the canonical JSON of the whole cell."""
        return self.id_under(self.seed)

    def id_under(self, seed: int) -> str:
        """The id that this cell would have under another seed."""
        # The same text as `canonical_json(self)`, put together from the parts' texts, which cells share.
        fields = {name: getattr(self, name) for name in type(self).model_fields} | {"seed": seed}
        texts = {k: v.canonical if isinstance(v, Frozen) else json.dumps(v) for k, v in fields.items()}
        whole = "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A changed copy, checked like any cell; pydantic's own would keep the old content's `cell_id`."""
        del deep
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**fields, **(update or {})})

    @property
    def is_measurement(self) -> bool:
        """True for published weights that are only measured."""
        return self.epochs == 0

    def stream(self) -> tuple[Any, ...]:
        """What decides the batches that a cell sees; equal streams can train side by side."""
        return (
            self.dataset, self.recipe.batch_size, self.recipe.micro_batch_size, self.recipe.augmentation,
            self.recipe.mean, self.recipe.std, self.recipe.evaluation_crop, self.recipe.resize_rounding,
            self.recipe.precision, self.seed,
        )  # fmt: skip


def canonical_json(value: BaseModel) -> str:
    """The one JSON text of a model: sorted keys, no spaces, ASCII, finite numbers only."""
    return json.dumps(
        value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest(value: BaseModel) -> str:
    """SHA-256 (hex) over `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class LedgerEntry(NamedTuple):
    """One open question of the paper, and the value that this project takes by default."""

    field: str
    default: str
    question: str


def ledger() -> Iterator[LedgerEntry]:
    """Every field that settles something which the paper leaves open, in the order of the cell's parts."""
    for part, model in (
        ("conventions", Conventions), ("recipe", Recipe), ("optimizer", Optimizer), ("student.pretrained", Pretrained)
    ):  # fmt: skip
        for name, field in model.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, OpenQuestion):
                    default = "set by the profile" if field.is_required() else json.dumps(field.default)
                    yield LedgerEntry(f"{part}.{name}", default, mark.text)
