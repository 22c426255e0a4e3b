"""Options and environment variables."""

import shlex

from error_cases import Case

from corpus import load_cases, plain

GRID = {"mine.yaml": "cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}\n"}


def run(flags: str, message: str) -> Case:
    return Case(("run", "mine.yaml", *shlex.split(flags)), message, GRID)


def tracked(uri: str, message: str, code: int = 2) -> Case:
    return Case(("sync",), message, GRID, {"MLFLOW_TRACKING_URI": uri}, code=code)


CASES = load_cases(__file__, plain, run, tracked)
