"""How a loss declares a hyperparameter: default and valid range in one place, checked on load."""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, cast

_CHECK = "check"


class Check(Protocol):
    """Turns a given value into the stored one, or raises ValueError naming the valid ones."""

    def __call__(self, owner: str, name: str, value: object) -> float | str: ...


class Hyperparameter(NamedTuple):
    """One hyperparameter of a loss: its name and its default."""

    name: str
    default: float | str


def refuse(problem: str, given: object, valid: Iterable[str]) -> str:
    """The message about a word that is not one of ``valid``, with the nearest of them."""
    valid = tuple(valid)
    near = difflib.get_close_matches(str(given), valid, n=1, cutoff=0.5)
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    return f'{problem} "{given}"; valid: {", ".join(valid) or "none"}{hint}'


def number(
    default: float,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """A dataclass field that holds a finite float in a range. Integers are converted."""
    low = f"[{at_least:g}" if at_least > -math.inf else f"({above:g}"
    high = f"{at_most:g}]" if at_most < math.inf else f"{below:g})"

    def check(owner: str, name: str, value: object) -> float:
        message = f"{owner}: {name} must be a finite number in {low}, {high}, got {value!r}"
        # bool is an int to Python, but `tau: yes` in a YAML file is a mistake.
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(message)
        try:
            converted = float(value)
        except OverflowError:
            raise ValueError(message) from None
        in_range = at_least <= converted <= at_most and above < converted < below
        if not (math.isfinite(converted) and in_range):
            raise ValueError(message)
        return converted

    return dataclasses.field(default=default, metadata={_CHECK: check})


def choice(default: str, *, among: Iterable[str]) -> Any:
    """A dataclass field that holds one word of a list."""
    words = tuple(among)

    def check(owner: str, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(refuse(f"{owner}: unknown {name}", value, words))
        return value

    return dataclasses.field(default=default, metadata={_CHECK: check})


def declared(owner: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The dataclass fields of a loss.

    Raises:
        TypeError: the loss is no dataclass, or a field lacks a range (an error of its author).
    """
    fields = dataclasses.fields(owner)
    for field in fields:
        if _CHECK not in field.metadata:
            raise TypeError(f"declare hyperparameter {field.name!r} with number() or choice()")
    return fields


def checked(field: dataclasses.Field[Any], owner: str, value: object) -> float | str:
    """The value to store in a field, after its check."""
    check: Check = field.metadata[_CHECK]
    return check(owner, field.name, value)


def default_of(field: dataclasses.Field[Any]) -> float | str:
    """A field's default, as typed: number() and choice() always give one."""
    return cast("float | str", field.default)
