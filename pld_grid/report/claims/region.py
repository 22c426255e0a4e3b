"""Where a claim's number has to lie: a relation with its margin, as a set of accepted numbers."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StrictStr, model_validator

from pld_grid.report.claims.quantity import exact
from pld_grid.report.values import decimals
from pld_grid.spec import Frozen


def _as_text(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'write the number in quotes, "{value}", with the digits that the paper prints')
    return value


def _checked(text: str) -> str:
    exact(text)
    return text


Printed = Annotated[StrictStr, BeforeValidator(_as_text), AfterValidator(_checked)]


class Relation(Frozen):
    """Exactly one of `greater`, `less` (strictly), `about` and `between` (the ends included), with printed numbers.

    `about` accepts what rounds to the printed number, half a unit of its last digit to either side, unless `margin`
    says how far. A range is a margin in itself.
    """

    greater: Printed | None = None
    less: Printed | None = None
    about: Printed | None = None
    between: tuple[Printed, Printed] | None = None
    margin: Printed | None = None

    @model_validator(mode="after")
    def _one_relation(self) -> "Relation":
        given = [name for name in RELATIONS if getattr(self, name) is not None]
        if len(given) != 1:
            has = " and ".join(given) or "none"
            raise ValueError(f"a claim needs exactly one of {', '.join(RELATIONS)}; it has {has}")
        if self.margin is not None and (self.about is None or Fraction(self.margin) < 0):
            raise ValueError('a margin belongs to "about", and is not negative')
        if self.between is not None and Fraction(self.between[0]) > Fraction(self.between[1]):
            raise ValueError(f"between {self.between[0]} and {self.between[1]} there is nothing")
        return self

    @property
    def region(self) -> "Region":
        """The accepted numbers."""
        if self.greater is not None:
            return Region(Fraction(self.greater), None, False, f"> {self.greater}")
        if self.less is not None:
            return Region(None, Fraction(self.less), False, f"< {self.less}")
        if self.between is not None:
            low, high = self.between
            return Region(Fraction(low), Fraction(high), True, f"from {low} to {high}")
        assert self.about is not None
        margin = self.margin or _half_a_unit(self.about)
        centre, half = Fraction(self.about), Fraction(margin)
        return Region(centre - half, centre + half, True, f"= {self.about} ± {margin}")


RELATIONS = ("greater", "less", "about", "between")


@dataclass(frozen=True)
class Region:
    """The numbers between two bounds (None: unbounded), themselves included if `closed`."""

    low: Fraction | None
    high: Fraction | None
    closed: bool
    text: str

    def accepts(self, number: Fraction | float) -> bool:
        """Whether a number is in the region."""
        return self.holds(number, number)

    def holds(self, low: Fraction | float, high: Fraction | float) -> bool:
        """Whether a whole interval is in the region."""
        above = self.low is None or low > self.low or (self.closed and low == self.low)
        below = self.high is None or high < self.high or (self.closed and high == self.high)
        return above and below

    def avoids(self, low: Fraction | float, high: Fraction | float) -> bool:
        """Whether a whole interval is outside the region."""
        below = self.low is not None and (high < self.low or (not self.closed and high == self.low))
        above = self.high is not None and (low > self.high or (not self.closed and low == self.high))
        return below or above


def _half_a_unit(printed: str) -> str:
    """Half a unit of a printed number's last digit: "0.005" for "0.42", "0.5" for "2"."""
    return format(Decimal(5).scaleb(-decimals(printed) - 1), "f")
