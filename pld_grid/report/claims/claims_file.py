"""Claims as a YAML file beside the paper's tables. An error is one line: the place, the mistake, the nearest name."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StrictStr, model_validator

from pld_grid.experiment.cell import StrictModel
from pld_grid.experiment.table_layout import only_key
from pld_grid.report.claims.lookup import Keys, PaperTables, Unresolved
from pld_grid.report.claims.quantity import Name, Quantity, Texts, evaluate
from pld_grid.report.claims.region import Relation
from pld_grid.util.strict_yaml import Document, Path_, read_file
from pld_grid.util.text import check_name

QUANTIFIERS = ("quantity", "each", "some")


class Claim(Relation):
    """A sentence of the paper (`place`, `text` as printed), and the relation between numbers that it states.

    `quantity` is one number; `each` and `some` are several, of which each or some have to satisfy the relation. `note`
    explains how words that are not numbers are read.
    """

    id: Annotated[StrictStr, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    place: Name
    text: Name
    quantity: Quantity | None = None
    each: Quantity | None = None
    some: Quantity | None = None
    note: StrictStr = ""

    @model_validator(mode="after")
    def _check_quantifier(self) -> "Claim":
        only_key(self, QUANTIFIERS, "a claim")
        return self

    @property
    def quantifier(self) -> str:
        """The one of QUANTIFIERS that the claim has."""
        return only_key(self, QUANTIFIERS, "a claim")

    @cached_property
    def subject(self) -> Quantity:
        """The number or numbers that the relation is about."""
        subject: Quantity = getattr(self, self.quantifier)
        return subject

    @property
    def reading(self) -> str:
        """The claim as a formula: `mean of (table03 Delta_DIST) = 0.42 ± 0.005`."""
        return f"{'' if self.quantifier == 'quantity' else f'{self.quantifier} '}{self.subject} {self.region.text}"


def _check_table_names(tables: Keys) -> Keys:
    for name in tables:
        check_name(name)
    return tables


class ClaimsFile(StrictModel):
    """A file of claims. `tables` names the columns that identify the rows of each table."""

    tables: Annotated[dict[str, Texts], Field(min_length=1), AfterValidator(_check_table_names)]
    claims: Annotated[list[Claim], Field(min_length=1)]

    def select(self, tables: Iterable[str]) -> "ClaimsFile":
        """Return the claims that use any of these tables."""
        names = set(tables)
        claims = [claim for claim in self.claims if any(leaf.table in names for leaf in claim.subject.leaves)]
        return self.model_copy(update={"claims": claims})


def read_claims(path: str | Path) -> ClaimsFile:
    """Read claims, and check that the paper's tables (CSV files in the same folder) have all that the claims name.

    Raises:
        InputError: The file or a table cannot be read, or a claim names something that does not exist.
    """
    document = read_file(path)
    file = document.parse(ClaimsFile)
    paper = PaperTables(Path(path).parent, file.tables)
    ids: set[str] = set()
    for number, claim in enumerate(file.claims):
        if claim.id in ids:
            raise document.error(("claims", number, "id"), f'two claims are called "{claim.id}"')
        ids.add(claim.id)
        _check_against_paper(document, ("claims", number), claim, paper)
    return file


def _check_against_paper(document: Document, path: Path_, claim: Claim, paper: PaperTables) -> None:
    """Raise InputError unless the paper's tables determine the claim's whole quantity."""
    whole = (*path, claim.quantifier)
    for at, part in claim.subject.walk(whole):
        try:
            evaluate(part, paper.lookup)
        except Unresolved as error:
            *steps, last = error.at
            place = document.locate(*at, *steps, last)
            raise document.error(document.locate(*place, value=last), str(error)) from None
        except ValueError as error:
            raise document.error(at, str(error)) from None
    items = evaluate(claim.subject, paper.lookup)
    if any(item.number is None for item in items):
        raise document.error(whole, "divides by zero in the paper's own tables")
    if claim.quantifier == "quantity" and len(items) > 1:
        raise document.error(whole, f"is {len(items)} numbers: take their mean, or write each or some")
