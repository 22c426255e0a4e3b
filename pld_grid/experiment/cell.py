"""Define one training as data: `Cell`, its parts, and the cell id that follows from its content.

A cell contains everything that can change a number and nothing else: no paths, workers, devices or cohort sizes.
Defaults are part of it, so a changed default gives another cell and never reuses an old result.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SPEC_VERSION = 2
MAX_EPOCHS = 100_000


def _drop_zero_sign(value: float) -> float:
    """Return 0.0 for -0.0: they are equal, but their JSON differs, and equal cells must have equal ids."""
    return value + 0.0


Scalar = str | bool | int | float
# Strict: "128" and true are refused, but an int is accepted.
Number = Annotated[float, Field(allow_inf_nan=False, strict=True), AfterValidator(_drop_zero_sign)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Standardization = Literal["none", "both", "teacher"]


def _plain(value: Any, name: str) -> Any:
    """Return a value as JSON represents it. Raises ValueError for a number that is not finite, or another type."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not a finite number")
        return _drop_zero_sign(value)
    if isinstance(value, list | tuple):
        return [_plain(inner, name) for inner in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner, name) for key, inner in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    raise ValueError(f"{name}: {value!r} is no plain value")


PlainValues = AfterValidator(lambda values: {name: _plain(value, name) for name, value in values.items()})


class StrictModel(BaseModel):
    """An immutable model that refuses unknown keys, because a misspelt key must never be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @cached_property
    def canonical(self) -> str:
        """The `canonical_json` of this model, cached, because thousands of cells share their parts."""
        return canonical_json(self)

    def __copy__(self) -> Self:
        # `model_copy` changes the copy afterwards, so cached properties must not be copied.
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


@dataclass(frozen=True)
class OpenQuestion:
    """The mark of a field that belongs to the ambiguity ledger: which question the paper leaves open, and where."""

    text: str


class Dataset(StrictModel):
    """The images and their size. `name` is a module of `pld_grid.train.data`, `code` identifies its code."""

    name: str
    code: str = ""
    num_classes: Annotated[int, Field(ge=2, strict=True)]
    channels: Literal[1, 3] = 3
    image_size: Count


class Augmentation(StrictModel):
    """Training-time image transforms. Random draws depend only on (seed, epoch, sample index)."""

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


class Recipe(StrictModel):
    """Batches and learning-rate schedule, shared by all cells of a profile.

    An optimizer step sees `batch_size` images in micro-batches of `micro_batch_size`. BatchNorm's statistics and DIST's
    intra term are computed over the micro-batch, so the number of devices does not change the experiment.
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


class Optimizer(StrictModel):
    """One of timm's optimizers, with its learning rate and keywords."""

    name: str
    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    decay_norm_and_bias: Annotated[
        Flag, OpenQuestion("Whether norm and bias parameters decay is not stated; timm's default exempts them.")
    ] = False
    options: Annotated[dict[str, Scalar | list[Number] | None], PlainValues] = {}


class Pretrained(StrictModel):
    """Published weights of a timm model, and the input normalisation that they were trained with."""

    tag: Annotated[
        str, OpenQuestion("The teachers' checkpoints are not named: timm tags nearest to the printed accuracy.")
    ]
    mean: Annotated[
        tuple[Number, ...] | None,
        OpenQuestion("A teacher's own input normalisation; null: the recipe's, as section 5 says for all."),
    ] = None
    std: tuple[Positive, ...] | None = None


class Model(StrictModel):
    """A timm architecture with its keywords; `pretrained` is null for a model trained from scratch.

    `code` identifies the code of an architecture that this project defines; it is empty for timm's own.
    """

    architecture: str
    code: str = ""
    options: Annotated[dict[str, Any], PlainValues] = {}
    pretrained: Pretrained | None = None


def _as_floats(values: dict[str, Scalar]) -> dict[str, Scalar]:
    """Return hyperparameters as real numbers: 2 and 2.0 must not make two cells."""
    return {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in values.items()}


class Loss(StrictModel):
    """A member of `pld_grid.train.losses` and its code, with all hyperparameters, defaults included."""

    name: str
    code: str = ""
    hyperparameters: Annotated[dict[str, Scalar], AfterValidator(_as_floats), PlainValues] = {}
    standardization: Standardization = "none"


class PaperInterpretation(StrictModel):
    """How this project reads the paper where it is ambiguous for all cells; each field has one implemented value."""

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
            "pListMLE's weights: section 4.2's, normalised to sum 1; section 5.1.1's formula equals PLD at tau = 1, "
            "yet Table 2 prints another number for it."
        ),
    ] = "2^(C-k)-1"
    tied_classes: Annotated[
        Literal["ascending index"],
        OpenQuestion("The order of classes with equal teacher logits; Appendix C's unstable sort leaves it open."),
    ] = "ascending index"
    dkd_warmup: Annotated[
        Literal["none"], OpenQuestion("DKD's loss is not warmed up; its authors' code raises it over 20 epochs.")
    ] = "none"
    crop_tries: Annotated[
        Literal[10],
        OpenQuestion("Random resized crops that do not fit are drawn again, as in torchvision and timm; then centred."),
    ] = 10
    training_interpolation: Annotated[
        Literal["bicubic"],
        OpenQuestion("Resizing of training crops is not stated; timm's default draws bilinear or bicubic."),
    ] = "bicubic"
    standardization_ddof: Annotated[
        Literal[1], OpenQuestion("Standardized logits divide by the sample standard deviation (n - 1), plus 1e-7.")
    ] = 1
    accuracy_epoch: Annotated[
        Literal["last"], OpenQuestion("Tables print the last epoch's accuracy; the best epoch is recorded beside it.")
    ] = "last"
    kl_direction: Annotated[
        Literal["teacher||student"],
        OpenQuestion("Table 10's direction: KL(q_t||q_s); the other one is recorded beside it."),
    ] = "teacher||student"
    kl_temperature: Annotated[Literal[1], OpenQuestion("Table 10's temperature, over the validation set.")] = 1
    weight_averaging: Annotated[
        Literal["none"], OpenQuestion("An exponential moving average of weights is not mentioned; none is kept.")
    ] = "none"
    schedule_step: Annotated[
        Literal["update"], OpenQuestion("The learning rate moves at every optimizer step, not once per epoch.")
    ] = "update"
    last_partial_batch: Annotated[
        Literal["dropped"], OpenQuestion("The images of an epoch that do not fill a batch are left out of that epoch.")
    ] = "dropped"


# The fields of a recipe that the batches depend on.
_STREAM_FIELDS = (
    *("batch_size", "micro_batch_size", "augmentation", "mean", "std"),
    *("evaluation_crop", "resize_rounding", "precision"),
)


class Cell(StrictModel):
    """One training, fully resolved. With 0 `epochs`, published weights are measured without training.

    The teacher is a cell itself, so a student's id depends on everything that made its teacher.
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
    conventions: PaperInterpretation = PaperInterpretation()

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
        """The first 16 hex digits of the SHA-256 over the canonical JSON of the whole cell."""
        return self.id_under(self.seed)

    def id_under(self, seed: int) -> str:
        """Return the id that this cell would have under another seed."""
        # This is `canonical_json(self)`, joined from the cached texts of its parts.
        fields = {name: getattr(self, name) for name in type(self).model_fields} | {"seed": seed}
        texts = {k: v.canonical if isinstance(v, StrictModel) else json.dumps(v) for k, v in fields.items()}
        whole = "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a changed copy, validated like any cell; pydantic's own method would copy the cached `cell_id`."""
        del deep
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**fields, **(update or {})})

    @property
    def is_measurement(self) -> bool:
        """Whether published weights are measured without training."""
        return self.epochs == 0

    def stream(self) -> tuple[Any, ...]:
        """Return everything that the batches depend on; cells of equal streams can train side by side."""
        return (self.dataset, self.seed, *(getattr(self.recipe, name) for name in _STREAM_FIELDS))


def canonical_json(value: BaseModel) -> str:
    """Return the JSON of a model with sorted keys, without spaces, in ASCII, with finite numbers only."""
    return json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: BaseModel) -> str:
    """Return the SHA-256 (hex) over `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class LedgerEntry(NamedTuple):
    """One open question of the paper, and the project's default answer."""

    field: str
    default: str
    question: str


def ledger() -> Iterator[LedgerEntry]:
    """Yield every field that answers an open question of the paper, in the order of the cell's parts."""
    for part, model in (
        ("conventions", PaperInterpretation),
        ("recipe", Recipe),
        ("optimizer", Optimizer),
        ("student.pretrained", Pretrained),
    ):
        for name, field in model.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, OpenQuestion):
                    default = "set by the profile" if field.is_required() else json.dumps(field.default)
                    yield LedgerEntry(f"{part}.{name}", default, mark.text)
