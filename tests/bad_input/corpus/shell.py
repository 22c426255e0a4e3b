"""What a shell may give a command: variables, streams and folders that are none."""

from front_door import Case

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}


def _store(uri: str, says: str = "store ") -> Case:
    return Case(("plan", "mine.yaml", "--store", uri), says, GRID)


CASES = {
    "hub's time that is a word": Case(
        ("plan", "mine.yaml"),
        'HF_HUB_DOWNLOAD_TIMEOUT: expected a whole number of seconds, not "abc"',
        GRID,
        {"HF_HUB_DOWNLOAD_TIMEOUT": "abc"},
        alone=True,
    ),
    "hub's other time": Case(
        ("plan", "mine.yaml"),
        'HF_HUB_ETAG_TIMEOUT: expected a whole number of seconds, not "-1"',
        GRID,
        {"HF_HUB_ETAG_TIMEOUT": "-1"},
    ),
    "all of a job again": Case(("submit", "mine.yaml", "--again"), "--again: name the cells with --only", GRID),
    "job's processors": Case(("submit", "mine.yaml", "--cpus-per-cohort", "-1"), "--cpus-per-cohort: must be ", GRID),
    "job of too many cells": Case(
        ("submit", "mine.yaml", "--seeds", "3000", "--max-cells", "2500"), "3000 cells | --max-cells raises it", GRID
    ),
    "emoji that was none": Case(("why", ":smile:"), '":smile:" is no cell id'),
    "store in an archive that is none": _store("zip::mine.yaml", "store zip::mine.yaml: "),
    "store that refers to nothing": _store("reference://x"),
    "store in a notebook": _store("jupyter://h"),
    "store of any kind": _store("generic://x"),
    "store of somebody's cluster": _store("dbfs://x"),
    "store in a wrapper": _store("async_wrapper://x"),
}
