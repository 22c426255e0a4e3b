"""A report's own evidence: `records.jsonl`, a header and a record per line, from which all its other files follow.

Numbers are exact. What a record says is what may be published: paths and credentials in reasons are cut.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from pld_grid.errors import InputError
from pld_grid.files import read_regular
from pld_grid.reading import explained
from pld_grid.records import Record, Records
from pld_grid.spec import Frozen
from pld_grid.store import sha256
from pld_grid.store.content import Text
from pld_grid.uris import without_credentials

FILE = "records.jsonl"
LARGEST = 2**31  # bytes; 10,000 cells of 100 epochs have 69 MB
FORMAT: Final = 1
_CHECKSUM = "records_sha256"
_RECORD = TypeAdapter(Record)
_NAMES = {field.name for field in fields(Record)}
_PATH = re.compile(r"(?<![\w/:.])(?:\w+:/{2,3})?~?(?:/[^\s/:'\",;()\[\]]+){2,}/?")


class Origin(Frozen):
    """With what a report was made, so that it can be made again: its grids' names, profile and `--seeds`.

    `mlflow` is the address that links to runs begin with, or empty.
    """

    format: Literal[1] = FORMAT
    grids: tuple[Text, ...]
    profile: Text
    seeds: int | None = None
    mlflow: Text = ""


def public(records: Records, cell_ids: Iterable[str]) -> dict[str, Record]:
    """The records of these cells as a report may show them: no folder of a machine, no credentials in a reason."""
    known = {cell_id: records[cell_id] for cell_id in dict.fromkeys(cell_ids) if cell_id in records}
    return {cell_id: replace(record, reason=_said(record.reason)) for cell_id, record in known.items()}


def dump(records: Records, origin: Origin) -> str:
    """The text of `records.jsonl`: the header, then a record per line by cell id. To be given `public` records.

    The header has the checksum of the other lines: so a change of any number shows, even of one that no table prints.
    """
    body = "".join(_line(_RECORD.dump_python(records[cell_id], mode="json")) for cell_id in sorted(records))
    return _line(origin.model_dump(mode="json") | {_CHECKSUM: sha256(body.encode())}) + body


def load(folder: str | Path) -> tuple[Origin, dict[str, Record]]:
    """What a report folder was made of.

    A wrong checksum is left to `check`, which finds that the file is not what `dump` makes of its records. Raises
    InputError, with file and line, if there is no `records.jsonl` or a line is not as `dump` writes it.
    """
    path = Path(folder) / FILE
    try:
        data = read_regular(path, LARGEST)
        lines = data.decode("utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; `pld-grid report` writes it with the report") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > LARGEST:
        raise InputError(f"{path}: larger than {LARGEST // 2**30} GiB")
    header = _object(path, 1, lines[0] if lines else "")
    if header.get("format") != FORMAT:
        raise InputError(f"{path}:1: its format is {header.get('format')!r}, and this version reads {FORMAT}")
    header.pop(_CHECKSUM, None)
    try:
        origin = Origin.model_validate(header)
    except ValidationError as error:
        raise InputError(f"{path}:1: {_first(error)}") from None
    found: dict[str, Record] = {}
    for number, line in enumerate(lines[1:], start=2):
        record = _record(path, number, line)
        if record.cell_id in found:
            raise InputError(f"{path}:{number}: cell {record.cell_id} is there twice")
        found[record.cell_id] = record
    return origin, found


def _record(path: Path, number: int, line: str) -> Record:
    content = _object(path, number, line)
    if content.keys() != _NAMES:
        odd = sorted(content.keys() ^ _NAMES)[0]
        what = "is no part of a record" if odd in content else "is missing"
        raise InputError(f'{path}:{number}: "{odd}" {what}')
    try:
        return _RECORD.validate_python(content)
    except ValidationError as error:
        raise InputError(f"{path}:{number}: {_first(error)}") from None


def _object(path: Path, number: int, line: str) -> dict[str, object]:
    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no number")

    try:
        content = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{number}: is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}:{number}: is no JSON object")
    return content


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    named = detail["type"] in ("missing", "extra_forbidden")
    said = detail["msg"][0].lower() + detail["msg"][1:] if named else explained(detail)
    return f"{'.'.join(map(str, detail['loc']))}: {said}"


def _line(content: Mapping[str, object]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def _said(reason: str) -> str:
    """A reason with only the last part of each absolute path."""
    return _PATH.sub(lambda found: ".../" + found[0].rstrip("/").rpartition("/")[2], without_credentials(reason))
