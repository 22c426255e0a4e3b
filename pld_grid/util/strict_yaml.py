"""Strict YAML: plain data and the line of every key, or one clear error.

`yaml.safe_load` keeps the last of duplicate keys, reads `5e-3` as a string, `no` as False and `1:30` as 90, and expands
alias bombs. Here, scalars follow YAML 1.2's core schema, and aliases and tags are refused.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pld_grid.util.atomic_files import read_regular
from pld_grid.util.errors import InputError
from pld_grid.util.text import join_names, nearest, one_line, show
from pld_grid.util.validation import EXPECTED_TYPES, explain_error, find_model, join_types

MAX_BYTES = 200_000
MAX_DEPTH = 20
Path_ = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

# An escape can make any character. Tabs and line breaks are allowed, for descriptions.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:~|null|Null|NULL|)\Z"), lambda _: None),
    (re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]{1,18}\Z"), int),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), float),
    (re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"), lambda text: float(text.replace(".", ""))),
)


def format_path(path: Path_) -> str:
    """Return `cells[0].loss` for `("cells", 0, "loss")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


@dataclass(frozen=True)
class Document:
    """A YAML file that has been read: its data, and the line of each key path."""

    source: str
    data: Any
    lines: dict[Path_, int]

    def error(self, path: Path_, message: str) -> InputError:
        """Return an InputError that names the file, the line and the key path."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        where, key = f"{self.source}:{self.lines.get(known, 1)}", format_path(path)
        return InputError(one_line(f"{where}: {key}: {message}" if key else f"{where}: {message}"))

    def locate(self, *path: str | int, value: object = None) -> Path_:
        """Return the longest part of a path that is in the file; if it is a list, the path of the item `value`."""
        known: Path_ = ()
        node = self.data
        for part in path:
            if (*known, part) not in self.lines:
                break
            known, node = (*known, part), node[part]
        if value is not None and isinstance(node, list):
            known += tuple(islice((i for i, item in enumerate(node) if item == value), 1))
        return known

    def parse(self, model: type[M], path: Path_ = ()) -> M:
        """Return the data at a path as a pydantic model. Raises InputError for the first violation."""
        value = self.data
        for part in path:
            value = value[part]
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise self._explain(error, model, path) from None

    def _explain(self, error: ValidationError, model: type[BaseModel], base: Path_) -> InputError:
        problems = error.errors(include_url=False)
        # An unknown key is usually a typo, and often the cause of the other problems.
        unknown_key = ("extra_forbidden", "invalid_key")
        first = next((problem for problem in problems if problem["type"] in unknown_key), problems[0])
        kind, last = first["type"], first["loc"][-1] if first["loc"] else ""
        path = self._existing(base + first["loc"])
        if kind in unknown_key:
            owner = find_model(model, first["loc"][:-1])
            valid = sorted(owner.model_fields) if owner else []
            tail = f"; valid: {join_names(valid, 20)}{nearest(last, valid)}" if valid else ""
            return self.error(path, f"unknown key {show(last)}{tail}")
        if kind == "missing":
            missing = f"value {last + 1} is missing" if isinstance(last, int) else f'missing key "{last}"'
            return self.error(path, missing)
        # A value that may have several types gets one problem for each.
        kinds = [problem["type"] for problem in problems if self._existing(base + problem["loc"]) == path]
        if all(each in EXPECTED_TYPES for each in kinds):
            return self.error(path, f"expected {join_types(kinds)}, not {show(first['input'])}")
        return self.error(path, explain_error(first))

    def _existing(self, path: Path_) -> Path_:
        """Return the path without the steps that pydantic inserts for unions and validators."""
        known: Path_ = ()
        for part in path:
            if (*known, part) in self.lines:
                known += (part,)
        return known


def read_file(path: str | Path) -> Document:
    """Read a YAML file. Raises InputError if it is missing, too large, not text or not strict YAML."""
    source = one_line(str(path))
    try:
        raw = read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{source}: larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source}:{line}: not UTF-8 text") from None
    return read_text(text, source)


def read_text(text: str, source: str = "<text>") -> Document:
    """Read YAML text; see `read_file`."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{source}:{line}: not a text file: character {error.character:#04x}") from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise InputError(_explain_syntax(error, source)) from None
    except (ValueError, OverflowError):
        # PyYAML does not check the numbers in escapes (\UFFFFFFFF) and in its version directive.
        raise InputError(f"{source}:{loader.line + 1}: not valid YAML: no character has such a number") from None
    if node is None:
        raise InputError(f"{source}:1: the file is empty")
    builder = _Builder(source, loader)
    data = builder.build(node, ())
    if not isinstance(data, dict):
        raise InputError(one_line(f"{source}:1: expected a mapping of keys to values, not {show(data)}"))
    return Document(source, data, builder.lines)


def _explain_syntax(error: yaml.MarkedYAMLError, source: str) -> str:
    """Return one line about a syntax error: its position, and where the unfinished element begins."""
    token, start = error.problem_mark or error.context_mark, error.context_mark
    line = token.line + 1 if token else 1
    context, problem = error.context or "", error.problem or "syntax error"
    if context.startswith("while ") and start is not None and start.line + 1 != line:
        problem += f" ({context} that begins on line {start.line + 1})"
    elif context and not context.startswith("while "):
        problem = f"{context}, {problem}"
    return one_line(f"{source}:{line}: not valid YAML: {problem}")


class _Loader(yaml.SafeLoader):
    """Compose nodes, record explicit tags and aliases, and refuse deep nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.tags: dict[int, str] = {}
        self.alias_lines: list[int] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if self.check_event(yaml.AliasEvent):
            self.alias_lines.append(event.start_mark.line + 1)
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if tag is not None:
            self.tags[id(node)] = tag
        return node


class _Builder:
    """Turn composed nodes into plain data, and refuse what strict YAML refuses."""

    def __init__(self, source: str, loader: _Loader) -> None:
        self.source = source
        self.loader = loader
        self.lines: dict[Path_, int] = {}
        self.seen: set[int] = set()

    def build(self, node: yaml.Node, path: Path_) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.check(node, path, line)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        return self.scalar(node, path, line)

    def check(self, node: yaml.Node, path: Path_, line: int) -> None:
        if id(node) in self.seen:
            # PyYAML gives the node of the anchor for its alias; the alias itself stands further down.
            line = self.loader.alias_lines[0]
            raise self.error(path, line, "YAML aliases (*name) are not supported; write the value out")
        self.seen.add(id(node))
        tag = self.loader.tags.get(id(node))
        if tag is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise self.error(path, line, f"YAML tag {short} is not supported; write a plain value")

    def mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(path, line, "a key must be plain text or a number")
            self.check(key_node, path, line)
            key = self.scalar(key_node, path, line)
            if key is None or isinstance(key, bool):
                raise self.error(path, line, f"a key must be plain text or a number, not {show(key)}")
            if key in result:
                first = self.lines[(*path, key)]
                raise self.error((*path, key), line, f"duplicate key {show(key)}, first on line {first}")
            self.lines[(*path, key)] = line
            result[key] = self.build(value_node, (*path, key))
        return result

    def scalar(self, node: yaml.Node, path: Path_, line: int) -> Any:
        text = str(node.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self.error(path, line, "half a surrogate pair is no character; write the character itself")
        if control := _CONTROL.search(text):
            raise self.error(path, line, f"the control character {ascii(control[0])[1:-1]} has no place in a text")
        quoted = not isinstance(node, yaml.ScalarNode) or node.style is not None
        convert = None if quoted else next((convert for pattern, convert in _SCALARS if pattern.match(text)), None)
        value = convert(text) if convert is not None else text
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(path, line, f"{text:.60} is not a finite number")
        return value

    def error(self, path: Path_, line: int, message: str) -> InputError:
        return Document(self.source, None, {**self.lines, path: line}).error(path, message)
