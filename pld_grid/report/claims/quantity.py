"""The quantity that a claim is about: a formula over the numbers of tables.

The same formula is evaluated on the paper's printed figures and on the cells of a run, in both cases with fractions, so
that no rounding of this project moves a number across a bound.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictStr, model_validator

from pld_grid.experiment.cell import StrictModel
from pld_grid.experiment.table_layout import as_list, only_key
from pld_grid.report.statistics import ROUNDING_TOLERANCE
from pld_grid.util.strict_yaml import Path_

_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?\Z")
_SYMBOLS = {"minus": "-", "ratio": "/"}
KINDS = ("table", "mean", "minus", "ratio", "trend")
Name = Annotated[StrictStr, Field(min_length=1)]
Texts = Annotated[list[StrictStr], BeforeValidator(as_list), Field(min_length=1)]


class Quantity(StrictModel):
    """One number or several: exactly one of KINDS.

    `table` takes the numbers of a `column`, in the rows whose key columns hold one of the texts in `rows`, in the order
    of these texts; without `rows`, in all rows. `mean` averages several numbers. `minus` and `ratio` pair two
    quantities item by item; a single number pairs with every item. `trend` is Kendall's rank correlation (tau-a, from
    -1 to 1) of the first quantity with the second, which may be a key column that holds numbers.

    There is no minimum or maximum, as the maximum of noisy numbers is biased upwards. A claim about each or some of
    several numbers expresses the same without that bias.
    """

    table: Name | None = None
    column: Name | None = None
    rows: dict[str, Texts] = Field(default={})
    mean: "Quantity | None" = None
    minus: "tuple[Quantity, Quantity] | None" = None
    ratio: "tuple[Quantity, Quantity] | None" = None
    trend: "tuple[Quantity, Quantity] | None" = None

    @model_validator(mode="after")
    def _check(self) -> "Quantity":
        only_key(self, KINDS, "a quantity")
        if (self.table is None) != (self.column is None):
            raise ValueError("table and column belong together")
        if self.rows and self.table is None:
            raise ValueError("only a table has rows")
        if any(len(set(texts)) < len(texts) for texts in self.rows.values()):
            raise ValueError("rows names a text twice")
        return self

    @property
    def kind(self) -> str:
        """The one of KINDS that the quantity is."""
        return only_key(self, KINDS, "a quantity")

    @property
    def operands(self) -> "tuple[Quantity, ...]":
        """The quantities that this one is computed from; none for a table's numbers."""
        value: Any = getattr(self, self.kind)
        return () if self.kind == "table" else value if isinstance(value, tuple) else (value,)

    def walk(self, path: Path_ = ()) -> "Iterator[tuple[Path_, Quantity]]":
        """Yield every part of the formula with its path in the YAML, operands before what is computed from them."""
        for index, operand in enumerate(self.operands):
            yield from operand.walk((*path, self.kind, index) if len(self.operands) > 1 else (*path, self.kind))
        yield path, self

    @property
    def leaves(self) -> "list[Quantity]":
        """The parts that name tables."""
        return [part for _, part in self.walk() if part.kind == "table"]

    def __str__(self) -> str:
        if self.kind == "table":
            named = {column: " or ".join(text or "blank" for text in texts) for column, texts in self.rows.items()}
            rows = "; ".join(f"{column}={texts}" for column, texts in named.items())
            return f"{self.table} {self.column}" + (f" [{rows}]" if rows else "")
        if self.kind == "mean":
            return f"mean of ({self.mean})"
        if self.kind == "trend":
            return "trend of {} over {}".format(*self.operands)
        atoms = ("table", "mean")
        left, right = (str(part) if part.kind in atoms else f"({part})" for part in self.operands)
        return f"{left} {_SYMBOLS[self.kind]} {right}"


def parse_decimal(text: str) -> Fraction:
    """Return the exact number that a text prints. Raises ValueError if it is not a plain decimal number."""
    if not _DECIMAL.match(text):
        raise ValueError(f'"{text}" is no decimal number like "0.42"')
    return Fraction(text)


@dataclass(frozen=True)
class Item:
    """A number, or None if it is missing, with the name of its row or rows."""

    name: str
    number: Fraction | None


Lookup = Callable[[Quantity], Sequence[Item]]


def evaluate(quantity: Quantity, lookup: Lookup) -> list[Item]:
    """Evaluate a quantity; whatever depends on a missing number is missing.

    Args:
        quantity: The formula.
        lookup: Returns the numbers of a quantity that names a table.

    Raises:
        ValueError: The formula pairs different counts of numbers, or takes the trend of fewer than two.
    """
    if quantity.kind == "table":
        return list(lookup(quantity))
    operands = [evaluate(operand, lookup) for operand in quantity.operands]
    if quantity.kind == "mean":
        numbers = _complete_numbers(operands[0])
        return [Item("", None if numbers is None else sum(numbers, Fraction(0)) / len(numbers))]
    left, right = operands
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        raise ValueError(f"{quantity.kind} pairs {len(left)} numbers with {len(right)}")
    if quantity.kind == "trend":
        return [Item("", _kendall_tau(left, right))]
    count = max(len(left), len(right))
    left, right = (side * count if len(side) < count else side for side in (left, right))
    return [_combine(quantity.kind, one, other) for one, other in zip(left, right, strict=True)]


def _combine(kind: str, left: Item, right: Item) -> Item:
    """Subtract or divide two items. Items without a name are single numbers."""
    name = " against ".join(dict.fromkeys(item.name for item in (left, right) if item.name))
    if left.number is None or right.number is None:
        return Item(name, None)
    if kind == "minus":
        return Item(name, left.number - right.number)
    return Item(name, left.number / right.number if right.number else None)


def _complete_numbers(items: Sequence[Item]) -> list[Fraction] | None:
    """Return all numbers, or None if one is missing."""
    numbers = [item.number for item in items if item.number is not None]
    return numbers if len(numbers) == len(items) else None


def _kendall_tau(left: Sequence[Item], right: Sequence[Item]) -> Fraction | None:
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(f"a trend needs two or more numbers over as many, not {len(left)} over {len(right)}")
    y, x = _complete_numbers(left), _complete_numbers(right)
    if x is None or y is None:
        return None
    pairs = list(combinations(zip(x, y, strict=True), 2))
    concordance = sum(_sign(x1 - x0) * _sign(y1 - y0) for (x0, y0), (x1, y1) in pairs)
    return Fraction(concordance, len(pairs))


def _sign(number: Fraction) -> int:
    return 0 if abs(number) < ROUNDING_TOLERANCE else (number > 0) - (number < 0)
