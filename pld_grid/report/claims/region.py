"""The relation that a claim states, as the region of the numbers that it accepts."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StrictStr, model_validator

from pld_grid.experiment.cell import StrictModel
from pld_grid.experiment.table_layout import only_key
from pld_grid.report.claims.quantity import parse_decimal
from pld_grid.report.value_text import count_decimals

RELATIONS = ("greater", "less", "about", "between")


def _refuse_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'write the number in quotes, "{value}", with the digits that the paper prints')
    return value


def _check_decimal(text: str) -> str:
    parse_decimal(text)
    return text


Printed = Annotated[StrictStr, BeforeValidator(_refuse_number), AfterValidator(_check_decimal)]


@dataclass(frozen=True)
class Region:
    """The numbers between two bounds (None: unbounded), which belong to the region if it is `closed`."""

    low: Fraction | None
    high: Fraction | None
    closed: bool
    text: str

    def contains(self, low: Fraction | float, high: Fraction | float) -> bool:
        """Return whether the whole interval from `low` to `high` lies in the region."""
        above = self.low is None or low > self.low or (self.closed and low == self.low)
        below = self.high is None or high < self.high or (self.closed and high == self.high)
        return above and below

    def excludes(self, low: Fraction | float, high: Fraction | float) -> bool:
        """Return whether the whole interval from `low` to `high` lies outside the region."""
        below = self.low is not None and (high < self.low or (not self.closed and high == self.low))
        above = self.high is not None and (low > self.high or (not self.closed and low == self.high))
        return below or above


class Relation(StrictModel):
    """Exactly one of `greater`, `less` (strictly), `about` and `between` (with its ends), with printed numbers.

    `about` accepts what rounds to the printed number, half a unit of its last digit to either side, or `margin` to
    either side if there is one. A range is a tolerance already and takes no margin.
    """

    greater: Printed | None = None
    less: Printed | None = None
    about: Printed | None = None
    between: tuple[Printed, Printed] | None = None
    margin: Printed | None = None

    @model_validator(mode="after")
    def _check_relation(self) -> "Relation":
        only_key(self, RELATIONS, "a claim")
        if self.margin is not None and (self.about is None or Fraction(self.margin) < 0):
            raise ValueError('a margin belongs to "about", and is not negative')
        if self.between is not None and Fraction(self.between[0]) > Fraction(self.between[1]):
            raise ValueError(f"between {self.between[0]} and {self.between[1]} there is nothing")
        return self

    @cached_property
    def region(self) -> Region:
        """The accepted numbers."""
        if self.greater is not None:
            return Region(Fraction(self.greater), None, False, f"> {self.greater}")
        if self.less is not None:
            return Region(None, Fraction(self.less), False, f"< {self.less}")
        if self.between is not None:
            low, high = self.between
            return Region(Fraction(low), Fraction(high), True, f"from {low} to {high}")
        assert self.about is not None
        margin = self.margin or format(Decimal(5).scaleb(-count_decimals(self.about) - 1), "f")
        center, half = Fraction(self.about), Fraction(margin)
        return Region(center - half, center + half, True, f"= {self.about} ± {margin}")
