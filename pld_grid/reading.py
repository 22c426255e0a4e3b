"""Strict YAML: plain data and the line of every key, or one clear error.

Why not `yaml.safe_load`: it keeps the last of duplicate keys, reads `5e-3` as a string, `no` as False and
`1:30` as 90, and unfolds alias bombs. Scalars here follow YAML 1.2's core schema, aliases are refused.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pld_grid.errors import InputError, listing, nearest
from pld_grid.files import read_regular

MAX_BYTES = 200_000
MAX_DEPTH = 20
MAX_NAME = 100  # bytes; file systems take 255, and reports add endings
_NOT_IN_NAMES = re.compile(r'[/\\<>:"|?*]')
_DEVICES = {"", "CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
Path_ = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

# Written as an escape; as such they are refused with the file. Tabs and line breaks may stand in a description.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", re.compile(r"[-+]?[0-9]{1,18}\Z")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")),
    ("float", re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")),
)


# What pydantic's complaint about a type asks for, in the words of a YAML file.
_KINDS = {
    "string_type": "text",
    "string_unicode": "text of whole characters",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "none_required": "null",
}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_BOUND_WORDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


def one_line(text: str, limit: int = 1000) -> str:
    """The text with control characters written out and, if it is too long, without its middle."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = limit // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"


def show(value: object, limit: int = 60) -> str:
    """A value as YAML would have it, for a message: `"text"`, `true`, `null`, `[1, 2]`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def format_path(path: Path_) -> str:
    """`("cells", 0, "loss")` as `cells[0].loss`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def check_name(name: str) -> str:
    """The name itself, if it can be a file's name on any system and stay in its folder. Raises ValueError.

    Grids, profiles and printed tables are called by the names of their files, and reports write files of these names.
    """
    plain = name.isprintable() and not _NOT_IN_NAMES.search(name) and name == name.strip(" .")
    if not plain or len(name.encode(errors="replace")) > MAX_NAME or name.partition(".")[0].upper() in _DEVICES:
        raise ValueError(f'{show(name)} is no plain name; up to {MAX_NAME} letters, digits, "-" and "_" always are one')
    return name


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
        return InputError(one_line(f"{where}: {key}: {message}" if key else f"{where}: {message}"))

    def at(self, *path: str | int, value: object = None) -> Path_:
        """The longest part of a path that stands in the file; of a list there, the item that is `value`."""
        kept: Path_ = ()
        node = self.data
        for part in path:
            if (*kept, part) not in self.lines:
                break
            kept, node = (*kept, part), node[part]
        if value is not None and isinstance(node, list):
            kept += tuple(islice((i for i, item in enumerate(node) if item == value), 1))
        return kept

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
        unknown = ("extra_forbidden", "invalid_key")
        first = next((p for p in problems if p["type"] in unknown), problems[0])
        kind, last = first["type"], first["loc"][-1] if first["loc"] else ""
        location = self._existing(base + tuple(first["loc"]))
        if kind in unknown:
            owner = _model_at(model, tuple(first["loc"])[:-1])
            valid = sorted(owner.model_fields) if owner else []
            tail = f"; valid: {listing(valid, 20)}{nearest(last, valid)}" if valid else ""
            return self.error(location, f"unknown key {show(last)}{tail}")
        if kind == "missing":
            lacks = f"value {last + 1} is missing" if isinstance(last, int) else f'missing key "{last}"'
            return self.error(location, lacks)
        # A value that may be of several kinds gets a complaint from each of them.
        same = [p for p in problems if self._existing(base + tuple(p["loc"])) == location]
        if all(p["type"] in _KINDS for p in same):
            return self.error(location, f"expected {_kinds(p['type'] for p in same)}, not {show(first['input'])}")
        return self.error(location, explained(first))

    def _existing(self, path: Path_) -> Path_:
        """The path without the steps that pydantic inserts for unions and validators."""
        kept: Path_ = ()
        for part in path:
            if (*kept, part) in self.lines:
                kept += (part,)
        return kept


def _kinds(types: Iterable[str]) -> str:
    """`text, true or false, or a number` for what a value may be."""
    words = list(dict.fromkeys(_KINDS[t] for t in types))
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}"


def explained(problem: ErrorDetails) -> str:
    """Pydantic's complaint about a value, in the words of somebody who writes YAML or a flag."""
    kind, context, value, message = problem["type"], problem.get("ctx", {}), problem["input"], problem["msg"]
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}, not {show(value)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return f"unknown value {show(value)}; valid: {', '.join(valid)}{nearest(value, valid)}"
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return f"must be {_BOUND_WORDS[bound]} {context[bound]:.15g}, not {show(value)}"
    if kind in ("too_short", "string_too_short") and not value:
        return "must not be empty"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        bound = f"at least {context['min_length']}" if least else f"at most {context['max_length']}"
        return f"expected {bound} values, not {len(value)}: {show(value)}"
    if kind == "string_too_long":
        return f"expected at most {context['max_length']} letters, not {len(value)}: {show(value)}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, not {show(value)}"
    return f"{message[0].lower()}{message[1:]}, not {show(value)}"


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


class _Loader(yaml.SafeLoader):
    """Composes nodes, notes explicit tags and aliases, and stops where nesting gets too deep."""

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


def read_file(path: str | Path) -> Document:
    """Reads a YAML file. Raises InputError if it is missing, too large, not text or not strict YAML."""
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
    """Reads YAML text; see `read_file`."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{source}:{line}: not a text file: character {error.character:#04x}") from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise InputError(_syntax(error, source)) from None
    except (ValueError, OverflowError):
        # PyYAML takes the numbers of escapes (\UFFFFFFFF) and of its version directive as they are.
        raise InputError(f"{source}:{loader.line + 1}: not valid YAML: no character has such a number") from None
    if node is None:
        raise InputError(f"{source}:1: the file is empty")
    builder = _Builder(source, loader)
    data = builder.build(node, ())
    if not isinstance(data, dict):
        raise InputError(one_line(f"{source}:1: expected a mapping of keys to values, not {show(data)}"))
    return Document(source, data, builder.lines)


def _syntax(error: yaml.MarkedYAMLError, source: str) -> str:
    """One line about a syntax error: where it was noticed, and where what it ends had begun."""
    mark, start = error.problem_mark or error.context_mark, error.context_mark
    line = mark.line + 1 if mark else 1
    context = error.context or ""
    problem = error.problem or "syntax error"
    if context.startswith("while ") and start is not None and start.line + 1 != line:
        problem += f" ({context} that begins on line {start.line + 1})"
    elif context and not context.startswith("while "):
        problem = f"{context}, {problem}"
    return one_line(f"{source}:{line}: not valid YAML: {problem}")


class _Builder:
    """Turns composed nodes into plain data, refusing what strict YAML refuses."""

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
            # The node stands at its anchor. This is the first alias in the order of the text.
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
        if strange := _CONTROL.search(text):
            raise self.error(path, line, f"the control character {ascii(strange[0])[1:-1]} has no place in a text")
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
                raise self.error(path, line, f"{text:.60} is not a finite number")
            return number
        return text

    def error(self, path: Path_, line: int, message: str) -> InputError:
        return Document(self.source, None, {**self.lines, path: line}).error(path, message)
