"""Describe a cell in words: its parts as texts, which each place joins in its own way."""

from pld_grid.experiment.cell import Cell, Loss, Scalar


def describe_cell(cell: Cell) -> str:
    """Return one line: `resnet18 <- resnet152 pld(tau=1, std=both) lamb seed 0`."""
    standardization = [f"std={cell.loss.standardization}"] if cell.loss.standardization != "none" else []
    loss = describe_loss(cell.loss, *standardization)
    return f"{describe_models(cell)} {loss} {cell.optimizer.name} seed {cell.seed}"


def describe_models(cell: Cell) -> str:
    """Return the student and, if there is one, its teacher: `resnet18 <- resnet152`."""
    student = cell.student.architecture
    return f"{student} <- {cell.teacher.student.architecture}" if cell.teacher is not None else student


def describe_loss(loss: Loss, *more: str) -> str:
    """Return the loss as `name(hyperparameters, more)`, or its name alone if there are none."""
    arguments = ", ".join([*describe_hyperparameters(loss), *more])
    return f"{loss.name}({arguments})" if arguments else loss.name


def describe_hyperparameters(loss: Loss) -> list[str]:
    """Return the loss's hyperparameters as `name=value`."""
    return [f"{name}={_format(value)}" for name, value in loss.hyperparameters.items()]


def _format(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
