"""The YAML of a profile."""

from typing import Annotated, Any, Literal

from pld_grid.experiment.cell import (
    Count,
    Flag,
    NonNegative,
    Number,
    PlainValues,
    Positive,
    Pretrained,
    Scalar,
    Seed,
    StrictModel,
)
from pld_grid.experiment.grid_schema import Epochs
from pld_grid.experiment.machine import MachineClass, MachineSettings

# The paper's two lengths of training. A profile may give the names other numbers of epochs.
PAPER_EPOCHS = {"paper-100": 100, "paper-300": 300}


class OptimizerSettings(StrictModel):
    """An optimizer's settings under a profile; its name is the key."""

    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    decay_norm_and_bias: Flag = False
    options: dict[str, Scalar | list[Number]] = {}


class DatasetSettings(StrictModel):
    """A dataset module and the image size in pixels."""

    name: str
    image_size: Count


class TeacherSettings(StrictModel):
    """Where teachers' weights come from: published weights, or a training with these settings."""

    source: Literal["trained", "pretrained"]
    epochs: Epochs = 100
    seed: Seed = 0
    optimizer: str | None = None
    loss: Literal["ce", "ls"] = "ce"


class ModelSettings(StrictModel):
    """What one of the grid's names of models stands for."""

    architecture: str
    options: Annotated[dict[str, Any], PlainValues] = {}
    pretrained: Pretrained | None = None


class ProfileFile(StrictModel):
    """The YAML of a profile."""

    description: str
    dataset: DatasetSettings
    recipe: dict[str, Any]
    optimizer: str
    optimizers: dict[str, OptimizerSettings]
    teachers: TeacherSettings
    models: dict[str, ModelSettings]
    epochs: dict[str, Epochs] = {}
    machine: MachineSettings = MachineSettings()
    machines: dict[str, MachineClass] = {}
