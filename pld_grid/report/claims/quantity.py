"""What a claim speaks of: a small tree over the numbers of tables.

The same tree is worked out from the paper's printed figures and from a run's cells, in both cases with fractions: no
rounding of ours ever moves a number across a border.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictStr, model_validator

from pld_grid.layout import many
from pld_grid.reading import Path_
from pld_grid.report.statistics import SAME
from pld_grid.spec import Frozen

_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?\Z")
Name = Annotated[StrictStr, Field(min_length=1)]
Texts = Annotated[list[StrictStr], BeforeValidator(many), Field(min_length=1)]


class Quantity(Frozen):
    """One number or several; exactly one of the keys below, `column` and `rows` aside, says which.

    `table` takes the numbers of a `column`, in the rows whose key columns hold one of the texts in `rows`, in the order
    of these texts; without `rows`, in all rows. `mean` makes one number of several. `minus` and `ratio` pair two
    quantities item by item; a single number pairs with every item. `trend` is Kendall's rank correlation (tau-a, from
    -1 to 1) of the first with the second, which may be a key column that holds numbers.

    There is no minimum or maximum: that of noisy numbers lies beyond that of their means. A claim about each or some of
    several numbers says the same without that error.
    """

    table: Name | None = None
    column: Name | None = None
    rows: dict[str, Texts] = Field(default={})
    mean: "Quantity | None" = None
    minus: "tuple[Quantity, Quantity] | None" = None
    ratio: "tuple[Quantity, Quantity] | None" = None
    trend: "tuple[Quantity, Quantity] | None" = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Quantity":
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            has = " and ".join(given) or "none"
            raise ValueError(f"a quantity needs exactly one of {', '.join(KINDS)}; it has {has}")
        if (self.table is None) != (self.column is None):
            raise ValueError("table and column belong together")
        if self.rows and self.table is None:
            raise ValueError("only a table has rows")
        if any(len(set(texts)) < len(texts) for texts in self.rows.values()):
            raise ValueError("rows names a text twice")
        return self

    @property
    def kind(self) -> str:
        """Which of KINDS it is."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def operands(self) -> "tuple[Quantity, ...]":
        """The quantities that this one is made of; none for a table's numbers."""
        value: Any = getattr(self, self.kind)
        return () if self.kind == "table" else value if isinstance(value, tuple) else (value,)

    def walk(self, path: Path_ = ()) -> "Iterator[tuple[Path_, Quantity]]":
        """Every part of the tree with its place in the YAML, operands before what is made of them."""
        for index, operand in enumerate(self.operands):
            yield from operand.walk((*path, self.kind, index) if len(self.operands) > 1 else (*path, self.kind))
        yield path, self

    @property
    def leaves(self) -> "list[Quantity]":
        """The parts that name tables."""
        return [part for _, part in self.walk() if part.kind == "table"]

    def __str__(self) -> str:
        if self.kind == "table":
            rows = "; ".join(
                f"{column}={' or '.join(t or 'blank' for t in texts)}" for column, texts in self.rows.items()
            )
            return f"{self.table} {self.column}" + (f" [{rows}]" if rows else "")
        inner = [str(operand) for operand in self.operands]
        if self.kind == "trend":
            return f"trend of {inner[0]} over {inner[1]}"
        if self.kind == "mean":
            return f"mean of ({inner[0]})"
        inner = [
            f"({text})" if operand.kind in (*PAIRS, "trend") else text
            for text, operand in zip(inner, self.operands, strict=True)
        ]
        return f" {'-' if self.kind == 'minus' else '/'} ".join(inner)


def exact(text: str) -> Fraction:
    """The number that a text prints. Raises ValueError if it is no plain decimal number."""
    if not _DECIMAL.match(text):
        raise ValueError(f'"{text}" is no decimal number like "0.42"')
    return Fraction(text)


@dataclass(frozen=True)
class Item:
    """A number with the name of its row, or of its rows; None where it is missing."""

    name: str
    number: Fraction | None


Lookup = Callable[[Quantity], Sequence[Item]]


def items_of(quantity: Quantity, lookup: Lookup) -> list[Item]:
    """Works a quantity out, `lookup` giving the numbers of tables; what needs a missing number is missing.

    Raises ValueError if it pairs different counts of numbers, or wants the trend of fewer than two.
    """
    if quantity.kind == "table":
        return list(lookup(quantity))
    parts = [items_of(operand, lookup) for operand in quantity.operands]
    if quantity.kind == "mean":
        numbers = _known(parts[0])
        return [Item("", None if numbers is None else sum(numbers, Fraction(0)) / len(numbers))]
    left, right = parts
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        raise ValueError(f"{quantity.kind} pairs {len(left)} numbers with {len(right)}")
    if quantity.kind == "trend":
        return [_trend(left, right)]
    count = max(len(left), len(right))
    left, right = (side * count if len(side) < count else side for side in (left, right))
    return [
        Item(_pair_name(a, b), PAIRS[quantity.kind](a.number, b.number))
        if a.number is not None and b.number is not None
        else Item(_pair_name(a, b), None)
        for a, b in zip(left, right, strict=True)
    ]


def _known(items: Sequence[Item]) -> list[Fraction] | None:
    """All numbers, or None if one is missing."""
    numbers = [item.number for item in items if item.number is not None]
    return numbers if len(numbers) == len(items) else None


def _pair_name(left: Item, right: Item) -> str:
    """Names say what tells rows apart, so a single number has none."""
    names = list(dict.fromkeys(item.name for item in (left, right) if item.name))
    return " against ".join(names)


def _trend(left: Sequence[Item], right: Sequence[Item]) -> Item:
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(f"a trend needs two or more numbers over as many, not {len(left)} over {len(right)}")
    y, x = _known(left), _known(right)
    if x is None or y is None:
        return Item("", None)
    pairs = list(combinations(zip(x, y, strict=True), 2))
    agreement = sum(_sign(x1 - x0) * _sign(y1 - y0) for (x0, y0), (x1, y1) in pairs)
    return Item("", Fraction(agreement, len(pairs)))


def _sign(number: Fraction) -> int:
    return 0 if abs(number) < SAME else (number > 0) - (number < 0)


def _ratio(left: Fraction, right: Fraction) -> Fraction | None:
    return left / right if right else None


PAIRS: dict[str, Callable[[Fraction, Fraction], Fraction | None]] = {"minus": lambda a, b: a - b, "ratio": _ratio}
KINDS = ("table", "mean", *PAIRS, "trend")
