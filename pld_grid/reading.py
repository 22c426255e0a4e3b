"""Strict YAML: plain data and the line of every key, or one clear error.

Why not `yaml.safe_load`: it keeps the last of duplicate keys, reads `5e-3` as a string, `no` as False and
`1:30` as 90, and unfolds alias bombs. Scalars here follow YAML 1.2's core schema, aliases are refused.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pld_grid.errors import InputError, listing, nearest

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
Path_ = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

_SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", re.compile(r"[-+]?[0-9]{1,18}\Z")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")),
    ("float", re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")),
)
_STANDARD = "tag:yaml.org,2002:"


def format_path(path: Path_) -> str:
    """`("cells", 0, "loss")` as `cells[0].loss`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


@dataclass(frozen=True)
class Document:
    """A read YAML file: its data, and the line on which each key path stands."""

    source: str
    data: Any
    lines: dict[Path_, int]

    def error(self, path: Path_, message: str) -> InputError:
        """An InputError that names the file, the line and the key path."""
        at = path
        while at and at not in self.lines:
            at = at[:-1]
        where = f"{self.source}:{self.lines.get(at, 1)}"
        key = format_path(path)
        return InputError(f"{where}: {key}: {message}" if key else f"{where}: {message}")

    def parse(self, model: type[M], path: Path_ = ()) -> M:
        """The data as a pydantic model; the first violation becomes one InputError."""
        value = self.data
        for part in path:
            value = value[part]
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise self._explain(error, model, path) from None

    def _explain(self, error: ValidationError, model: type[BaseModel], base: Path_) -> InputError:
        problems = error.errors(include_url=False)
        # An unknown key is the likeliest typo, and often the cause of the other complaints.
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        location = self._existing(base + tuple(first["loc"]))
        if first["type"] == "extra_forbidden":
            owner = _model_at(model, tuple(first["loc"])[:-1])
            valid = sorted(owner.model_fields) if owner else []
            key = first["loc"][-1]
            tail = f"; valid: {listing(valid, 20)}{nearest(key, valid)}" if valid else ""
            return self.error(location, f'unknown key "{key}"{tail}')
        if first["type"] == "missing":
            return self.error(location, f'missing key "{first["loc"][-1]}"')
        if first["type"] == "value_error":
            return self.error(location, str(first["ctx"]["error"]))
        message = first["msg"][0].lower() + first["msg"][1:]
        return self.error(location, f"{message}, not {first['input']!r:.60}")

    def _existing(self, path: Path_) -> Path_:
        """The path without the steps that pydantic inserts for unions and validators."""
        kept: Path_ = ()
        for part in path:
            if kept + (part,) in self.lines:
                kept += (part,)
        return kept


def _model_at(model: type[BaseModel], location: Path_) -> type[BaseModel] | None:
    """The pydantic model whose fields the last step of `location` should have been one of."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None or not isinstance(part, str) or part not in current.model_fields:
            continue
        found = _models_in(current.model_fields[part].annotation)
        current = found[0] if found else None
    return current


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def read_file(path: str | Path) -> Document:
    """Reads a YAML file. Raises InputError if it is missing, too large, not text or not strict YAML."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return read_text(raw.decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def read_text(text: str, source: str = "<text>") -> Document:
    """Reads YAML text; see `read_file`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    builder = _Builder(source)
    data = builder.build(node, ()) if node is not None else None
    if not isinstance(data, dict):
        raise InputError(f"{source}:1: expected a mapping of keys to values")
    return Document(source, data, builder.lines)


class _Builder:
    """Turns composed nodes into plain data, refusing what strict YAML refuses."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path_, int] = {}
        self.seen: set[int] = set()

    def build(self, node: yaml.Node, path: Path_) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if id(node) in self.seen:
            raise self.error(path, line, "YAML aliases (*name) are not supported; write the value out")
        self.seen.add(id(node))
        if len(path) > MAX_DEPTH:
            raise self.error(path, line, "nested too deeply")
        if not node.tag.startswith(_STANDARD) or "python" in node.tag:
            raise self.error(path, line, f"YAML tag {node.tag} is not supported")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, path, line)

    def mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(path, line, "a key must be plain text or a number")
            key = self.scalar(key_node, path, line)
            if key in result:
                raise self.error((*path, key), line, f'duplicate key "{key}"')
            self.lines[(*path, key)] = line
            result[key] = self.build(value_node, (*path, key))
        return result

    def scalar(self, node: yaml.Node, path: Path_, line: int) -> Any:
        text = str(node.value)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if not plain:
            return text
        for kind, pattern in _SCALARS:
            if not pattern.match(text):
                continue
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(text)
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            if not math.isfinite(number):
                raise self.error(path, line, f"{text} is not a finite number")
            return number
        return text

    def error(self, path: Path_, line: int, message: str) -> InputError:
        return Document(self.source, None, {**self.lines, path: line}).error(path, message)
