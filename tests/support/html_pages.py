"""Pages to test, and what is needed to read them: every element is closed, in order."""

from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Any

from paper_records import PAPER

from pld_grid.experiment.grid import Grid
from pld_grid.report.claims.claims_file import read_claims
from pld_grid.report.claims.verdict import Verdict, judge_claims
from pld_grid.report.figures import Figure
from pld_grid.report.figures.style import figure_style, render_images
from pld_grid.report.html_page import Page
from pld_grid.report.table_builder import build_table
from pld_grid.store import Provenance
from pld_grid.store.records import CellRecord

MLFLOW = "http://127.0.0.1:5000"
# Elements that HTML never closes.
VOID = {"meta", "input", "br", "img", "link"}

DELTAS = """
cells: {teacher: ResNet-152, student: ResNet-50, loss: [ce, kd, pld], epochs: [100, 300], seed: [0, 1]}
table:
  title: "Table A: Losses"
  rows: [epochs]
  columns:
    - {header: Epochs, axis: epochs}
    - {header: CE, metric: top1, where: {loss: ce}}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Delta_KD, minus: [PLD, KD]}
  difference_rows:
    - {header: Delta (300-100), minus: [{epochs: 300}, {epochs: 100}]}
"""


class Element:
    """One element: its name, attributes, and everything in it."""

    def __init__(self, name: str, attributes: dict[str, str], parent: "Element | None" = None) -> None:
        self.name, self.attributes, self.parent = name, attributes, parent
        self.children: list[Element | str] = []

    @property
    def elements(self) -> list["Element"]:
        """The elements directly in it."""
        return [child for child in self.children if isinstance(child, Element)]

    def walk(self) -> Iterator["Element"]:
        """All elements within, in the order of the page."""
        waiting = self.elements[::-1]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += element.elements[::-1]

    def all(self, name: str = "", *, class_: str = "", **wanted: str) -> list["Element"]:
        """The elements within that have a name, a class and attributes."""
        return [
            e
            for e in self.walk()
            if name in ("", e.name)
            and (not class_ or class_ in e.attributes.get("class", "").split())
            and all(e.attributes.get(key) == value for key, value in wanted.items())
        ]

    def within(self, class_: str) -> bool:
        """Whether an element around it has a class."""
        around = self.parent
        return around is not None and (class_ in around.attributes.get("class", "").split() or around.within(class_))

    @property
    def text(self) -> str:
        """What is written in it, with single spaces."""
        return " ".join("".join(c if isinstance(c, str) else f" {c.text} " for c in self.children).split())


class Tree(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], f"not closed: {[e.name for e in self.open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open[-1])
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(text: str) -> Element:
    return Tree(text).root


def drawing(name: str = "accuracy", **texts: str) -> Figure:
    """A real figure with what SVG needs ids for: markers, a clip path, hatches."""
    from matplotlib.figure import Figure as Canvas

    with figure_style():
        canvas = Canvas(figsize=(3, 2))
        axes = canvas.subplots()
        axes.plot([1, 2, 3], [2, 3, 1], "o-", label="PLD")
        axes.bar([1, 2], [1, 2], hatch="//")
        axes.set_xlabel(texts.get("title", "Epoch"))
        svg, png = render_images(canvas)
    words = {"title": "Accuracy", "caption": "It rises.", "alt": "A rising line."} | texts
    return Figure(name, words["title"], words["caption"], words["alt"], svg, png, "epoch,top1\n1,2\n")


def provenance(**changes: Any) -> Provenance:
    fields: dict[str, Any] = {"commit": "0123abc", "versions": {"torch": "2.9.0"}, "device": "cpu", "threads": 1}
    return Provenance(**(fields | {"started": 1.0, "ended": 2.0} | changes))


def build_test_page(grids: Sequence[Grid], records: dict[str, CellRecord], **changes: Any) -> Page:
    tables = [build_table(grid, records, PAPER) for grid in grids]
    return Page(**({"tables": tables, "records": records, "figures": [], "verdicts": [], "mlflow": MLFLOW} | changes))


def list_verdicts(page: Page) -> tuple[Verdict, ...]:
    return judge_claims(read_claims(PAPER / "claims.yaml"), page.tables, PAPER)
