"""A report's evidence: `records.jsonl`, a header and one record per line, from which all its other files follow.

Numbers are exact. The records can be published: paths and credentials in reasons are removed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from pld_grid.experiment.cell import StrictModel
from pld_grid.experiment.grid import Grid
from pld_grid.store import sha256
from pld_grid.store.records import CellRecord, Records
from pld_grid.store.schema import Text
from pld_grid.util.atomic_files import read_regular
from pld_grid.util.errors import InputError
from pld_grid.util.redact import without_credentials
from pld_grid.util.validation import explain_error

RECORDS_FILE = "records.jsonl"
MAX_BYTES = 2**31  # 10,000 cells of 100 epochs have 69 MB
FORMAT: Final = 1
LOCAL_MLFLOW = "http://127.0.0.1:5000"
_CHECKSUM = "records_sha256"
_RECORD = TypeAdapter(CellRecord)
_FIELDS = {field.name for field in fields(CellRecord)} - {"receipt"}
_PATH = re.compile(r"(?<![\w/:.])(?:\w+:/{2,3})?~?(?:/[^\s/:'\",;()\[\]]+){2,}/?")


class Origin(StrictModel):
    """What a report is made from, so that it can be made again: its grids' names, its profile and `--seeds`.

    `mlflow` is the address that links to runs begin with, or empty.
    """

    format: Literal[1] = FORMAT
    grids: tuple[Text, ...]
    profile: Text
    seeds: int | None = None
    mlflow: Text = ""

    @classmethod
    def from_grids(cls, grids: Sequence[Grid], mlflow: str = LOCAL_MLFLOW) -> "Origin":
        """Return the origin of a report on grids that share one profile."""
        names = tuple(grid.name for grid in grids)
        return cls(grids=names, profile=grids[0].profile.name, seeds=grids[0].seeds, mlflow=mlflow)


def redact_records(records: Records, cell_ids: Iterable[str]) -> dict[str, CellRecord]:
    """Return the records of these cells without absolute paths and credentials in their reasons."""
    known = {cell_id: records[cell_id] for cell_id in dict.fromkeys(cell_ids) if cell_id in records}
    return {cell_id: replace(record, reason=_redact(record.reason)) for cell_id, record in known.items()}


def serialize_records(records: Records, origin: Origin) -> str:
    """Return the text of `records.jsonl`: the header, then one redacted record per line, ordered by cell id.

    The header has the checksum of the other lines, so that a change of any number shows, even of one that no table
    prints.
    """
    contents = [_RECORD.dump_python(records[i], mode="json", include=_FIELDS) for i in sorted(records)]
    body = "".join(map(_to_line, contents))
    return _to_line(origin.model_dump(mode="json") | {_CHECKSUM: sha256(body.encode())}) + body


def load_records(folder: str | Path) -> tuple[Origin, dict[str, CellRecord]]:
    """Read the `records.jsonl` of a report's folder.

    The checksum is not verified here: `report --check` renders the file again and compares. Raise InputError, with file
    and line, if the file does not exist or a line is not as `serialize_records` writes it.
    """
    path = Path(folder) / RECORDS_FILE
    try:
        data = read_regular(path, MAX_BYTES)
        lines = data.decode("utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `pld-grid report` writes it with the report") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES // 2**30} GiB")
    header = _parse_object(path, 1, lines[0] if lines else "")
    if header.get("format") != FORMAT:
        raise InputError(f"{path}:1: its format is {header.get('format')!r}, and this version reads {FORMAT}")
    header.pop(_CHECKSUM, None)
    try:
        origin = Origin.model_validate(header)
    except ValidationError as error:
        raise InputError(f"{path}:1: {_explain(error)}") from None
    records: dict[str, CellRecord] = {}
    for number, line in enumerate(lines[1:], start=2):
        record = _parse_record(path, number, line)
        if record.cell_id in records:
            raise InputError(f"{path}:{number}: cell {record.cell_id} appears twice")
        records[record.cell_id] = record
    return origin, records


def _parse_record(path: Path, number: int, line: str) -> CellRecord:
    content = _parse_object(path, number, line)
    for name in sorted(content.keys() ^ _FIELDS):
        problem = "is not a field of a record" if name in content else "is missing"
        raise InputError(f'{path}:{number}: "{name}" {problem}')
    try:
        return _RECORD.validate_python(content)
    except ValidationError as error:
        raise InputError(f"{path}:{number}: {_explain(error)}") from None


def _parse_object(path: Path, number: int, line: str) -> dict[str, object]:
    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not a number")

    try:
        content = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{number}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}:{number}: not a JSON object")
    return content


def _explain(error: ValidationError) -> str:
    """Return the first problem of a validation, with the field's path."""
    detail = error.errors()[0]
    if detail["type"] in ("missing", "extra_forbidden"):
        problem = detail["msg"][0].lower() + detail["msg"][1:]
    else:
        problem = explain_error(detail)
    return f"{'.'.join(map(str, detail['loc']))}: {problem}"


def _to_line(content: Mapping[str, object]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def _redact(reason: str) -> str:
    """Return a reason with only the last part of each absolute path."""
    return _PATH.sub(lambda match: ".../" + match[0].rstrip("/").rpartition("/")[2], without_credentials(reason))
