"""Test that foreign texts never become markup of the page, and that drawings stay separate."""

import re
from collections import Counter
from dataclasses import replace

from html_pages import DELTAS, Element, build_test_page, drawing, list_verdicts, provenance, read
from paper_records import make_record, own_grid

from pld_grid.experiment.profile import Profile
from pld_grid.report.html_figure import inline_svg
from pld_grid.report.html_page import Page, render_page
from pld_grid.report.table import Row

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;{{ 7*7 }}</style>-->"


def _with_texts(profile: Profile, text: str) -> Page:
    """A page on which whatever others may write says `text`."""
    base = own_grid(DELTAS.replace("Table A: Losses", "T"), profile, text.replace("/", "") or "own")
    cells = list(base.cells())
    made = provenance(device=text, versions={text: text})
    records = {cell.cell_id: make_record(cell, provenance=made) for cell in cells}
    for cell, state in zip(cells, ("failed", "diverged"), strict=False):
        records[cell.cell_id] = make_record(cell, state, reason=text, run_id=text, experiment_id=text)
    page = build_test_page([base], records, figures=[drawing(text, title=text, caption=text, alt=text)])
    (table,) = page.tables

    def renamed(row: Row) -> Row:
        return replace(row, name=text, cells=tuple(text if isinstance(c, str) else c for c in row.cells))

    setting = replace(table.setting, profile=text, description=text, dataset=text, models={text: text}, recipe=text)
    headers, rows = tuple(f"{text}{place}" for place, _ in enumerate(table.headers)), tuple(map(renamed, table.rows))
    table = replace(table, title=text, headers=headers, rows=rows, setting=setting)
    claims = [replace(verdict, paper_detail=text, run_detail=text) for verdict in list_verdicts(page)[:2]]
    claims = [replace(v, claim=v.claim.model_copy(update={"text": text, "place": text})) for v in claims]
    return replace(page, tables=[table], verdicts=claims)


def _shape(element: Element) -> tuple[str, list[str]]:
    return element.name, sorted(element.attributes)


def test_hostile_texts_never_become_elements_or_attributes(profile):
    harmless, hostile = (read(render_page(_with_texts(profile("digits"), text))) for text in ("plain", HOSTILE))
    # The drawings hold glyphs of the texts; everything else is one and the same page.
    shapes = [[_shape(e) for e in tree.walk() if not e.within("drawing")] for tree in (harmless, hostile)]
    assert shapes[0] == shapes[1]
    allowed = {"svg", "g", "defs", "path", "use", "clippath", "rect", "pattern"}
    assert {d.name for s in hostile.all("svg") for d in s.all()} <= allowed
    assert len(hostile.all("script")) == 1
    assert HOSTILE in hostile.text


def test_inline_svg_drawings_share_no_id():
    figure = drawing()
    svgs = [inline_svg(figure, prefix) for prefix in ("a.", "b.")]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    uses = [set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) for svg in svgs]
    assert ids[0] and not ids[0] & ids[1]
    assert all(used and used <= own for used, own in zip(uses, ids, strict=True))
    assert any("clip-path" in svg for svg in svgs) and all("pattern" in svg for svg in svgs)
    assert svgs[0].replace("a.", "b.") == svgs[1].replace("a.", "b.")


def test_inline_svg_keeps_appearance_without_styles():
    figure = drawing()
    svg = inline_svg(figure, "a.")
    assert b"style=" in figure.svg and "style" not in svg and "<!--" not in svg and "metadata" not in svg
    kept = Counter(re.findall(r"stroke: (#\w+)", figure.svg.decode()))
    assert Counter(re.findall(r'stroke="(#\w+)"', svg)) == kept and len(kept) > 1
