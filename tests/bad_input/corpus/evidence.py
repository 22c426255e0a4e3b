"""Reports that are checked, or made again, from their own `records.jsonl`."""

import json
from typing import Any

from front_door import Case

HEADER: dict[str, Any] = {"format": 1, "grids": ["table07"], "profile": "digits", "seeds": 1, "mlflow": ""}
RECORD: dict[str, Any] = {
    "cell_id": "012ac49f2bc896f9", "state": "unfinished", "reason": "", "epoch": 0, "metrics": {}, "parameters": None,
    "commit": "", "run_id": "", "experiment_id": "", "epochs": [], "provenance": None,
}  # fmt: skip


def line(content: dict[str, Any], changes: dict[str, Any]) -> str:
    """A line of the file; `...` takes a key away."""
    return json.dumps({k: v for k, v in (content | changes).items() if v is not ...}) + "\n"


def _file(content: str | bytes, said: str) -> Case:
    return Case(("report", "--check", "--out", "mine"), said, {"mine/records.jsonl": content})


def _header(said: str, **changes: Any) -> Case:
    return _file(line(HEADER, changes), said)


def record(said: str, **changes: Any) -> Case:
    return _file(line(HEADER, {}) + line(RECORD, changes), said)


FIRST, SECOND = "mine/records.jsonl:1: ", "mine/records.jsonl:2: "
CASES = {
    "missing": Case(
        ("report", "--check", "--out", "mine"), "mine/records.jsonl: there is no such file; `pld-grid report`"
    ),
    "folder that is a file": Case(
        ("report", "--from", "records", "--out", "mine"), "mine/records.jsonl: cannot be read", {"mine": ""}
    ),
    "empty": _file("", f"{FIRST}is no JSON"),
    "text": _file("hello\n", f"{FIRST}is no JSON"),
    "bytes": _file(bytes(range(256)), "mine/records.jsonl: cannot be read: "),
    "list": _file("[]\n", f"{FIRST}is no JSON object"),
    "nested": _file("[" * 100_000, f"{FIRST}is no JSON: "),
    "not a number": _file('{"format": NaN}\n', f"{FIRST}is no JSON: NaN is no number"),
    "cut off": _file(line(HEADER, {}) + line(RECORD, {})[:50], f"{SECOND}is no JSON: "),
    "blank line": _file(line(HEADER, {}) + "\n" + line(RECORD, {}), f"{SECOND}is no JSON: "),
    "endless number": _file(line(HEADER, {}) + '{"epoch": ' + "9" * 5000 + "}", f"{SECOND}is no JSON: "),
    "another format": _header(f"{FIRST}its format is 2, and this version reads 1", format=2),
    "no grids": _header(f"{FIRST}grids: ", grids=...),
    "empty grids": _header("no grid was given", grids=[]),
    "unknown key": _header(f"{FIRST}x: ", x=1),
    "no seeds": _header("--seeds: must be at least 1, not 0", seeds=0),
    "too many seeds": _header("--seeds: must be at most 1000000000000000, not 1000", seeds=10**30),
    "grid above": _header(
        "mine: its records name a grid '../../x', which must be a plain file name", grids=["../../x"]
    ),
    "grid from the root": _header("mine: its records name a grid '/etc/passwd', which must be", grids=["/etc/passwd"]),
    "grid that is not there": _header("grids/table99.yaml: cannot be read: No such file", grids=["table99"]),
    "grid with a null byte": _header(r"grids/a\x00b.yaml: cannot be read: ", grids=["a\0b"]),
    "grid with a line break": _header(r"grids/a\nb.yaml: cannot be read: ", grids=["a\nb"]),
    "endless grid": _header("cannot be read: File name too long", grids=["x" * 300]),
    "grid of the home folder": _header("grids/~.yaml: cannot be read: ", grids=["~"]),
    "grid twice": _header("table07.yaml: two grids are called table07", grids=["table07", "table07"]),
    "unknown profile": _header(
        '--profile: unknown profile "digit"; valid: | (did you mean "digits"?)', profile="digit"
    ),
    "profile above": _header('--profile: unknown profile "../digits"; valid: ', profile="../digits"),
    "record without metrics": record(f'{SECOND}"metrics" is missing', metrics=...),
    "record with more": record(f'{SECOND}"x" is no part of a record', x=1),
    "record twice": _file(
        line(HEADER, {}) + 2 * line(RECORD, {}), "mine/records.jsonl:3: cell 012ac49f2bc896f9 is there twice"
    ),
}
