"""What a shell may give a command: variables, streams and folders that are none."""

from error_cases import Case

from corpus import plain

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}


def _store(uri: str, says: str = "store ") -> Case:
    return Case(("plan", "mine.yaml", "--store", uri), says, GRID)


def _hub(name: str, value: str, *, alone: bool = False) -> Case:
    message = f'{name}: expected a whole number of seconds, not "{value}"'
    return plain("plan mine.yaml", message, GRID, {name: value}, alone=alone)


CASES = {
    "hub's time that is a word": _hub("HF_HUB_DOWNLOAD_TIMEOUT", "abc", alone=True),
    "hub's other time": _hub("HF_HUB_ETAG_TIMEOUT", "-1"),
    "all of a job again": plain("submit mine.yaml --again", "--again: name the cells with --only", GRID),
    "job's processors": plain("submit mine.yaml --cpus-per-cohort -1", "--cpus-per-cohort: must be ", GRID),
    "job of too many cells": plain(
        "submit mine.yaml --seeds 3000 --max-cells 2500", "3000 cells | --max-cells raises it", GRID
    ),
    "emoji that was none": plain("why :smile:", '":smile:" is no cell id'),
    "store in an archive that is none": _store("zip::mine.yaml", "store zip::mine.yaml: "),
    "store that refers to nothing": _store("reference://x"),
    "store in a notebook": _store("jupyter://h"),
    "store of any kind": _store("generic://x"),
    "store of somebody's cluster": _store("dbfs://x"),
    "store in a wrapper": _store("async_wrapper://x"),
}
