"""Small inputs that would need all memory, or hours, without limits."""

from error_cases import Case

from corpus import names, profiles

GRID = {"mine.yaml": "cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}\n"}
OWN = ("--profile", "own.yaml")


def _grid(
    message: str, *columns: str, cells: str = "loss: [kd, pld]", more: str = "", flags: tuple[str, ...] = ()
) -> Case:
    """Return the case of a grid whose table begins on line 2, and whose given columns begin on line 6."""
    lines = ["- {header: Loss, axis: loss}", *(f"- {{{column}}}" for column in columns)]
    table = "".join(f"    {line}\n" for line in lines)
    text = f"cells: {{teacher: ResNet-152, student: ResNet-50, {cells}}}\ntable:\n  rows: [loss]\n  columns:\n{table}"
    return Case(("plan", "mine.yaml", *flags), f"mine.yaml:{message}", {"mine.yaml": text + more})


def _plan(message: str, *flags: str) -> Case:
    return Case(("plan", "mine.yaml", *flags), message, GRID)


def _profile(old: str, new: str, message: str) -> Case:
    files = {"mine.yaml": names.GRID, "own.yaml": profiles.PROFILE.replace(old, new, 1)}
    assert files["own.yaml"] != profiles.PROFILE
    return Case(("plan", "mine.yaml", *OWN), f"own.yaml:{message}", files)


def _watch(interval: str, shown: str) -> Case:
    message = f"'--interval': must be at | {shown}, not \"{interval}\""
    return Case(("report", "mine.yaml", "--watch", "--interval", interval), message, GRID)


FIRST = "header: c0, metric: top1"
NUMBERS = f"[{', '.join(map(str, range(1000)))}]"
DOUBLING = [FIRST, *(f"header: c{i}, minus: [c{i - 1}, c{i - 1}]" for i in range(1, 40))]
COLUMNS = [f"header: c{i}, metric: top1" for i in range(4500)]
ROWS = "".join(f"    - {{header: x{i}, minus: [{{loss: kd}}, {{loss: pld}}]}}\n" for i in range(2000))
FIGURES = "".join(f"    - {{name: f{i}, title: F, kind: bars, x: Loss, y: c0}}\n" for i in range(1500))
LONG = "x" * 190_000
CASES = {
    "differences of differences of differences": _grid(
        '10: table.columns[5].minus: column "c4" comes to 16 cells for each number; 8 are the most', *DOUBLING
    ),
    "thousands of columns": _grid(
        "4: table.columns: expected at most 100 values, not 4501: ", *COLUMNS, cells=f"loss: kd, seed: {NUMBERS}"
    ),
    "a hundred columns of a thousand seeds": _grid(
        "2: table: its numbers come to more than 100000 cells: rows x columns x seeds are too many",
        *COLUMNS[:99],
        cells=f"loss: [kd, pld], seed: {NUMBERS}",
    ),
    "a hundred columns of a thousand --seeds": _grid(
        "2: table: its numbers come to more than 100000 cells", *COLUMNS[:99], flags=("--seeds", "1000")
    ),
    "thousands of difference rows": _grid(
        "7: table.difference_rows: expected at most 100 values, not 2000: ", FIRST, more=f"  difference_rows:\n{ROWS}"
    ),
    "thousands of figures": _grid(
        "7: table.figures: expected at most 20 values, not 1500: ", FIRST, more=f"  figures:\n{FIGURES}"
    ),
    "huge header": _grid(
        "6: table.columns[1].header: expected at most 200 letters, not 190000: ", f"header: {LONG}, metric: top1"
    ),
    "huge row name": _grid(
        "4: table.columns: a row's name has 190011 letters, the maximum is 300: Loss=kd, A=xxx",
        f"header: A, axis: loss, names: {{kd: {LONG}}}",
        FIRST,
    ),
    "thousands of labels for a thousand cells": _grid(
        "1: cells.labels: expected at most 50 values, not 15000: ",
        FIRST,
        cells=f"loss: kd, seed: {NUMBERS}, labels: {{{', '.join(f'x{i}: 1' for i in range(15_000))}}}",
    ),
    "tiny CPU share": _plan("--cpus-per-cohort: must be at least 0.001, not 1e-300", "--cpus-per-cohort", "1e-300"),
    "tiny GPU share": _plan("--gpus-per-cohort: must be 0 or at least 0.001, not 1e-09", "--gpus-per-cohort", "1e-9"),
    "tiny CPU share in a profile": _profile(
        "cpus_per_cohort: 1", "cpus_per_cohort: 1e-9", "25: machine.cpus_per_cohort: must be at least 0.001, not 1e-09"
    ),
    "too many slots": _plan("'--slots': must be at most 1000000, not \"1000000000\"", "--slots", "1000000000"),
    "infinite interval": _watch("inf", "most 1000000"),
    "huge interval": _watch("1e300", "most 1000000"),
    "NaN interval": _watch("nan", ""),
}
