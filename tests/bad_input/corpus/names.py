"""Names that lead out of a folder or into timm's loaders, or that no file system can hold."""

from error_cases import Case

from corpus import load_cases, plain
from corpus.profiles import PROFILE

GRID = "cells: {student: ResNet-50, loss: ce}\n"
PLAIN = 'is no plain name; up to 100 letters, digits, "-" and "_" always are one'


def grid(name: str, message: str) -> Case:
    return Case(("plan", name), message, {name: GRID})


def within(text: str, message: str) -> Case:
    return plain("run bad.yaml", f"bad.yaml{message}", {"bad.yaml": text})


def profile(name: str, message: str) -> Case:
    return Case(("run", "mine.yaml", "--profile", name), message, {"mine.yaml": GRID})


def model(model: str, message: str) -> Case:
    text = PROFILE.replace("models:\n", f"models:\n  Mine: {model}\n")
    return plain("run mine.yaml --profile bad.yaml", f"bad.yaml:23: {message}", {"bad.yaml": text, "mine.yaml": GRID})


def with_option(option: str) -> str:
    """Return a profile with a model that has this option."""
    return PROFILE.replace("models:\n", f"models:\n  Mine: {{architecture: test_resnet, options: {{{option}}}}}\n")


def option(option: str, message: str) -> Case:
    return model(f"{{architecture: test_resnet, options: {{{option}}}}}", f"models.Mine: {message}")


def paper(name: str) -> Case:
    return within(f"{GRID}table: {{rows: [loss], paper: {name}}}\n", f":2: table.paper: | {PLAIN}")


def figure(name: str, message: str) -> Case:
    figure = f"{{name: {name}, title: x, kind: bars, x: Loss, y: Top-1}}"
    columns = "[{header: Loss, axis: loss}, {header: Top-1, metric: top1}]"
    return within(
        f"{GRID}table: {{rows: [loss], columns: {columns}, figures: [{figure}]}}\n",
        f":2: table.figures[0].name: {message}",
    )


CASES = load_cases(__file__, plain, grid, within, profile, model, option, paper, figure) | {
    "grid that is no text": plain(
        "plan latin.yaml", "latin.yaml:1: not UTF-8 text", {"latin.yaml": b"cells: \xff\xfe\n"}
    ),
    "picture for a grid": plain(
        "plan picture.yaml", "picture.yaml:9: not UTF-8 text", {"picture.yaml": b"\n" * 8 + bytes(range(11, 256))}
    ),
    "profile of a device": plain(
        "run mine.yaml --profile aux.yaml",
        f'aux.yaml: a profile has the name of its file; "aux" {PLAIN}',
        {"mine.yaml": GRID, "aux.yaml": PROFILE},
    ),
    "endless cell": Case(
        ("run", "mine.yaml", "--only", "f" * 50_000), "--only: no cell of these grids is | ...", {"mine.yaml": GRID}
    ),
}
