"""Reports that are checked, or made again, from their own `records.jsonl`."""

import json
from typing import Any

from error_cases import Case

from corpus import plain

HEADER: dict[str, Any] = {"format": 1, "grids": ["table07"], "profile": "digits", "seeds": 1, "mlflow": ""}
RECORD: dict[str, Any] = {
    "cell_id": "012ac49f2bc896f9",
    "state": "unfinished",
    "reason": "",
    "epoch": 0,
    "metrics": {},
    "parameters": None,
    "commit": "",
    "run_id": "",
    "experiment_id": "",
    "epochs": [],
    "provenance": None,
}


def line(content: dict[str, Any], changes: dict[str, Any]) -> str:
    """A line of the file; `...` takes a key away."""
    return json.dumps({k: v for k, v in (content | changes).items() if v is not ...}) + "\n"


def _file(content: str | bytes, message: str) -> Case:
    return plain("report --check --out mine", message, {"mine/records.jsonl": content})


def _header(message: str, **changes: Any) -> Case:
    return _file(line(HEADER, changes), message)


def record(message: str, **changes: Any) -> Case:
    return _file(line(HEADER, {}) + line(RECORD, changes), message)


EPOCH = {"epoch": 1, "time": 1.75e9, "metrics": {"top1": 50.0}}
MADE = {
    "commit": "0123abc",
    "versions": {"torch": "2.9.0"},
    "device": "cpu",
    "threads": 1,
    "started": 1.75e9,
    "ended": 1.75e9,
}
HALF, TOO_MUCH = "\ud800", "must be at most 9.00719925474099e+15, not 1000"
NO_TEXT = r'expected text of whole characters, not "\ud800"'
FIRST, SECOND = "mine/records.jsonl:1: ", "mine/records.jsonl:2: "
CASES = {
    "missing": plain("report --check --out mine", "mine/records.jsonl: no such file; `pld-grid report`"),
    "folder that is a file": plain(
        "report --from records --out mine", "mine/records.jsonl: cannot be read", {"mine": ""}
    ),
    "empty": _file("", f"{FIRST}not JSON"),
    "text": _file("hello\n", f"{FIRST}not JSON"),
    "bytes": _file(bytes(range(256)), "mine/records.jsonl: cannot be read: "),
    "list": _file("[]\n", f"{FIRST}not a JSON object"),
    "nested": _file("[" * 100_000, f"{FIRST}not JSON: "),
    "not a number": _file('{"format": NaN}\n', f"{FIRST}not JSON: NaN is not a number"),
    "cut off": _file(line(HEADER, {}) + line(RECORD, {})[:50], f"{SECOND}not JSON: "),
    "blank line": _file(line(HEADER, {}) + "\n" + line(RECORD, {}), f"{SECOND}not JSON: "),
    "endless number": _file(line(HEADER, {}) + '{"epoch": ' + "9" * 5000 + "}", f"{SECOND}not JSON: "),
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
    "endless grid": _header("xxx.yaml: cannot be read: No such file", grids=["x" * 300]),
    "grid of the home folder": _header("grids/~.yaml: cannot be read: ", grids=["~"]),
    "grid twice": _header("table07.yaml: two grids are called table07", grids=["table07", "table07"]),
    "unknown profile": _header(
        '--profile: unknown profile "digit"; valid: | (did you mean "digits"?)', profile="digit"
    ),
    "profile above": _header('--profile: unknown profile "../digits"; valid: ', profile="../digits"),
    "mlflow of half a character": _header(f"{FIRST}mlflow: {NO_TEXT}", mlflow=HALF),
    "grid of half a character": _header(f"{FIRST}grids.0: {NO_TEXT}", grids=[HALF]),
    "endless parameters": record(f"{SECOND}parameters: {TOO_MUCH}", parameters=10**400),
    "no parameters": record(f"{SECOND}parameters: must be at least 0, not -1", parameters=-1),
    "endless epoch": record(f"{SECOND}epoch: must be at most 100000, not 1000", epoch=10**400),
    "metric near the end of numbers": record(f"{SECOND}metrics.top1: must be at most 1e+100", metrics={"top1": 1e308}),
    "metric near the other end": record(f"{SECOND}metrics.top1: must be at least -1e+100", metrics={"top1": -1e308}),
    "metric beyond all numbers": _file(
        line(HEADER, {}) + line(RECORD, {"metrics": {"top1": 7.5}}).replace("7.5", "1e999"), f"{SECOND}metrics.top1: "
    ),
    "endless epoch of a curve": record(
        f"{SECOND}epochs.0.epoch: must be at most 100000, not 1000", epochs=[EPOCH | {"epoch": 10**400}]
    ),
    "metric of a curve": record(
        f"{SECOND}epochs.0.metrics.top1: must be at most 1e+100", epochs=[EPOCH | {"metrics": {"top1": 1e308}}]
    ),
    "time of a curve": record(f"{SECOND}epochs.0.time: must be at most 100000000000", epochs=[EPOCH | {"time": 1e300}]),
    "start in another age": record(
        f"{SECOND}provenance.started: must be at least 0", provenance=MADE | {"started": -1e300}
    ),
    "end in another age": record(
        f"{SECOND}provenance.ended: must be at most 100000000000", provenance=MADE | {"ended": 1e300}
    ),
    "endless devices": record(f"{SECOND}provenance.devices: {TOO_MUCH}", provenance=MADE | {"devices": 10**400}),
    "commit of half a character": record(f"{SECOND}commit: {NO_TEXT}", commit=HALF),
    "run of half a character": record(f"{SECOND}run_id: {NO_TEXT}", run_id=HALF),
    "reason of half a character": record(f"{SECOND}reason: {NO_TEXT}", reason=HALF),
    "version of half a character": record(
        f"{SECOND}provenance.versions.torch: {NO_TEXT}", provenance=MADE | {"versions": {"torch": HALF}}
    ),
    "device of half a character": record(f"{SECOND}provenance.device: {NO_TEXT}", provenance=MADE | {"device": HALF}),
    "record without metrics": record(f'{SECOND}"metrics" is missing', metrics=...),
    "record with more": record(f'{SECOND}"x" is not a field of a record', x=1),
    "record twice": _file(
        line(HEADER, {}) + 2 * line(RECORD, {}), "mine/records.jsonl:3: cell 012ac49f2bc896f9 appears twice"
    ),
}
