"""Explain pydantic's validation errors in the words of YAML and command lines."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from pld_grid.util.text import nearest, show

# What each of pydantic's type errors expects.
EXPECTED_TYPES = {
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
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def explain_error(problem: ErrorDetails) -> str:
    """Return what is wrong with a value."""
    kind, value = problem["type"], problem["input"]
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "literal_error":
        expected = problem["ctx"]["expected"]
        valid = re.findall(r"'([^']*)'", expected) or [expected]
        return f"unknown value {show(value)}; valid: {', '.join(valid)}{nearest(value, valid)}"
    if kind in ("too_short", "string_too_short") and not value:
        return "must not be empty"
    return f"{_expectation(kind, problem.get('ctx', {}), value, problem['msg'])}{show(value)}"


def _expectation(kind: str, context: dict[str, Any], value: Any, message: str) -> str:
    """Return the part of an explanation that comes before the value."""
    if kind in EXPECTED_TYPES:
        return f"expected {EXPECTED_TYPES[kind]}, not "
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]:.15g}, not "
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"expected {bound} values, not {len(value)}: "
    if kind == "string_too_long":
        return f"expected at most {context['max_length']} letters, not {len(value)}: "
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, not "
    return f"{message[0].lower()}{message[1:]}, not "


def join_types(kinds: Iterable[str]) -> str:
    """Return `text, true or false, or a number` for a value that may have several types."""
    words = list(dict.fromkeys(EXPECTED_TYPES[kind] for kind in kinds))
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}"


def find_model(model: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the model inside `model` that an error's location leads to."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is not None and isinstance(part, str) and part in current.model_fields:
            current = next(iter(_models_in(current.model_fields[part].annotation)), None)
    return current


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
