"""Declarations of hyperparameters: default and valid values in one place, checked when a loss is built."""

import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any

from pld_grid.util.text import nearest

# The key in a field's metadata. Its value is a function (loss, name, value) that returns the value to store, or raises
# ValueError that names the valid ones.
VALIDATOR = "validator"


def unknown_name(problem: str, name: object, valid: Iterable[str]) -> str:
    """Return the message about a name that is not one of ``valid``, with the nearest of them."""
    valid = tuple(valid)
    return f'{problem} "{name}"; valid: {", ".join(valid) or "none"}{nearest(name, valid)}'


def number(
    default: float,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """Declare a dataclass field that holds a finite float in a range. Integers are converted."""
    low = f"[{at_least:g}" if at_least > -math.inf else f"({above:g}"
    high = f"{at_most:g}]" if at_most < math.inf else f"{below:g})"

    def validator(loss: str, name: str, value: object) -> float:
        # Python's bool is an int, but `tau: yes` in a YAML file is a mistake.
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        try:
            converted = float(value) if is_number else math.nan  # type: ignore[arg-type]
        except OverflowError:
            converted = math.inf
        if not math.isfinite(converted) or not (at_least <= converted <= at_most and above < converted < below):
            raise ValueError(f"{loss}: {name} must be a finite number in {low}, {high}, got {value!r}")
        return converted

    return dataclasses.field(default=default, metadata={VALIDATOR: validator})


def choice(default: str, *, among: Iterable[str]) -> Any:
    """Declare a dataclass field that holds one of several words."""
    words = tuple(among)

    def validator(loss: str, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(unknown_name(f"{loss}: unknown {name}", value, words))
        return value

    return dataclasses.field(default=default, metadata={VALIDATOR: validator})


def validated_fields(loss: Any) -> tuple[dataclasses.Field[Any], ...]:
    """Return the dataclass fields of a loss or of its class.

    Raises:
        TypeError: The loss is no dataclass, or a field declares no valid values (a mistake of its author).
    """
    fields = dataclasses.fields(loss)
    for field in fields:
        if VALIDATOR not in field.metadata:
            raise TypeError(f"declare hyperparameter {field.name!r} with number() or choice()")
    return fields
