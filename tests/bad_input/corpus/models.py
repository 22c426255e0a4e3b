"""Models, optimizers and sizes that cannot be trained: refused before anything starts."""

from error_cases import Case

from corpus import load_cases
from corpus.profiles import PROFILE

GRID = "cells: {student: Mine, loss: ce}\n"


def files(options: str, architecture: str = "test_resnet", grid: str = GRID) -> dict[str, str]:
    """Return a profile with a model of these options, and a grid that needs it."""
    mine = f"  Mine: {{architecture: {architecture}, options: {{{options}}}}}\n"
    return {"own.yaml": PROFILE.replace("models:\n", f"models:\n{mine}"), "mine.yaml": grid}


def large(option: str, size: object, architecture: str = "test_resnet") -> Case:
    name = option.partition(":")[0]
    message = f'own.yaml:23: models.Mine: option "{name}": its numbers must add up to 10000 at most, not to {size}'
    return Case(("run", "mine.yaml", "--profile", "own.yaml"), message, files(option, architecture))


def unmade(
    options: str, message: str, architecture: str = "test_resnet", grid: str = GRID, command: str = "run"
) -> Case:
    message = f"own.yaml:23: models.Mine: timm makes no {architecture} of these options{message}"
    return Case((command, "mine.yaml", "--profile", "own.yaml"), message, files(options, architecture, grid))


def profile(old: str, new: str, message: str, command: str = "plan mine.yaml") -> Case:
    assert old in PROFILE
    grid = "cells: {student: ResNet-50, loss: ce}\n"
    changed = {"own.yaml": PROFILE.replace(old, new, 1), "mine.yaml": grid}
    return Case((*command.split(), "--profile", "own.yaml"), f"own.yaml:{message}", changed)


CASES = load_cases(__file__, unmade, large, profile)
