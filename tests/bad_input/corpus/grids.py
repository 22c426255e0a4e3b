"""Grids: the text of the file, and the expected message after the file's name."""

from error_cases import Case

from corpus import load_cases


def block(inner: str) -> str:
    return f"cells: {{teacher: ResNet-152, student: ResNet-50, loss: kd, {inner}}}\n"


NUMBERS = ", ".join(map(str, range(1, 1001)))
ONES = ", ".join("1" * 1000)


def text(grid: str, message: str) -> Case:
    return Case(("run", "bad.yaml"), f"bad.yaml | {message}", {"bad.yaml": grid})


LARGE = {
    "nested lists": ("cells: " + "[" * 60_000, ":1: not valid YAML: nested more than 20 levels deep"),
    "nested mappings": ("cells: " + "{a: " * 5000, ":1: not valid YAML: nested more than 20 levels deep"),
    "nested blocks": (
        "".join(" " * i + "a:\n" for i in range(200)),
        ":21: not valid YAML: nested more than 20 levels deep",
    ),
    "too large": ("#" * 300_000, ": larger than 200000 bytes"),
    "huge YAML version": ("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", ":1: not valid YAML: "),
    "very long name": (f"cells: {{student: {'x' * 5000}, loss: ce}}\n", ':1: cells.student: unknown model "xxx | xxx'),
    "a million million cells": (
        block(
            f"seed: [{NUMBERS}], epochs: [{NUMBERS}], hyperparameters: {{kd: {{alpha: [{ONES}], tau: [{NUMBERS}]}}}}"
        ),
        ":1: cells: expands to 1000000000000 cells, more than the limit of 2000",
    ),
    "too many cells": (
        block(f"seed: [{NUMBERS}], epochs: [{NUMBERS}], hyperparameters: {{kd: {{alpha: [0, 1], tau: [{NUMBERS}]}}}}"),
        ":1: cells: expands to 2000000000 cells, more than the limit of 2000 (--max-cells raises it)",
    ),
}

CASES = load_cases(__file__, text) | {name: text(*case) for name, case in LARGE.items()}
