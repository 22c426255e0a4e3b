"""Claims as a YAML file beside the paper's tables. Mistakes get one line: what, where, the nearest valid name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictStr, model_validator

from pld_grid.reading import Document, Path_, check_name, read_file
from pld_grid.report.claims.lookup import Keys, Unresolved, paper_lookup
from pld_grid.report.claims.quantity import Lookup, Name, Quantity, Texts, items_of
from pld_grid.report.claims.region import Region, Relation
from pld_grid.report.paper import read_paper
from pld_grid.spec import Frozen

Quantifier = Literal["quantity", "each", "some"]
QUANTIFIERS: tuple[Quantifier, ...] = ("quantity", "each", "some")


class ClaimText(Relation):
    """One claim in YAML: `quantity` is one number, `each` and `some` are several, of which each or some have to satisfy
    the relation."""

    id: Annotated[StrictStr, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    place: Name
    text: Name
    quantity: Quantity | None = None
    each: Quantity | None = None
    some: Quantity | None = None
    note: StrictStr = ""

    @model_validator(mode="after")
    def _one_subject(self) -> "ClaimText":
        given = [name for name in QUANTIFIERS if getattr(self, name) is not None]
        if len(given) != 1:
            has = " and ".join(given) or "none"
            raise ValueError(f"a claim needs exactly one of {', '.join(QUANTIFIERS)}; it has {has}")
        return self

    @property
    def quantifier(self) -> Quantifier:
        """Which of QUANTIFIERS it has."""
        return next(name for name in QUANTIFIERS if getattr(self, name) is not None)

    @property
    def subject(self) -> Quantity:
        """What the relation is about."""
        found = getattr(self, self.quantifier)
        assert isinstance(found, Quantity)
        return found


class ClaimsFile(Frozen):
    """The YAML of claims. `tables` names the columns that tell a table's rows apart."""

    tables: Annotated[dict[str, Texts], Field(min_length=1)]
    claims: Annotated[list[ClaimText], Field(min_length=1)]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper (`place`, `text` as printed), and how it is read.

    `quantity`, or each or some of its numbers as `quantifier` says, has to lie in `region`. `note` says why words that
    are no numbers are read so. `keys` are the tables' key columns.
    """

    id: str
    place: str
    text: str
    note: str
    quantity: Quantity
    quantifier: Quantifier
    region: Region
    keys: Keys

    @property
    def reading(self) -> str:
        """The claim as a formula: `mean of (table03 Delta_DIST) = 0.42 ± 0.005`."""
        return f"{'' if self.quantifier == 'quantity' else f'{self.quantifier} '}{self.quantity} {self.region.text}"


def read_claims(path: str | Path) -> tuple[Claim, ...]:
    """Reads claims, and finds everything that they name in the paper's tables (CSV files in the same folder).

    Raises InputError if the file or a table cannot be read, and at the first name that is not there.
    """
    document = read_file(path)
    file = document.parse(ClaimsFile)
    keys = {name: tuple(columns) for name, columns in file.tables.items()}
    for name in keys:
        try:
            check_name(name)
        except ValueError as error:
            raise document.error(("tables", name), str(error)) from None
    paper = paper_lookup({name: read_paper(Path(path).parent, name, columns) for name, columns in keys.items()})
    seen: set[str] = set()
    for number, claim in enumerate(file.claims):
        if claim.id in seen:
            raise document.error(("claims", number, "id"), f'two claims are called "{claim.id}"')
        seen.add(claim.id)
        _resolve(document, ("claims", number), claim, paper)
    return tuple(_claim(text, keys) for text in file.claims)


def _claim(text: ClaimText, keys: Keys) -> Claim:
    return Claim(text.id, text.place, text.text, text.note, text.subject, text.quantifier, text.region, keys)


def _resolve(document: Document, path: Path_, claim: ClaimText, paper: Lookup) -> None:
    """Raises InputError unless the whole quantity can be worked out from the paper's tables."""
    whole = (*path, claim.quantifier)
    for at, part in claim.subject.walk(whole):
        try:
            items_of(part, paper)
        except Unresolved as error:
            *steps, last = error.at
            place = document.at(*at, *steps, last)
            raise document.error(document.at(*place, value=last), str(error)) from None
        except ValueError as error:
            raise document.error(at, str(error)) from None
    items = items_of(claim.subject, paper)
    if any(item.number is None for item in items):
        raise document.error(whole, "divides by zero in the paper's own tables")
    if claim.quantifier == "quantity" and len(items) > 1:
        raise document.error(whole, f"is {len(items)} numbers: take their mean, or write each or some")
