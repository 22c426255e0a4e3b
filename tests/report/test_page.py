"""Test the HTML page: its contents, its accessibility, and that it makes no request."""

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import get_args
from urllib.parse import unquote

import pytest
from html_pages import DELTAS, MLFLOW, Element, build_test_page, drawing, list_verdicts, provenance, read
from paper_records import PAPER, all_grids, make_record, make_records, mixed_records, own_grid, table_grid

from pld_grid.experiment.cell import ledger
from pld_grid.experiment.profile import Profile
from pld_grid.report.html_page import Page, render_page
from pld_grid.report.html_table import STATES
from pld_grid.report.values import Value
from pld_grid.store.schema import State
from pld_grid.util.csv_text import full
from pld_grid.util.errors import InputError

Profiles = Callable[[str], Profile]


@pytest.fixture(scope="module")
def page(profile: Profiles) -> Page:
    """All tables with three seeds in every state, all claims, and figures of one and the same drawing."""
    grids = all_grids(profile("digits"), seeds=3)
    records = mixed_records(grids, experiment_id="7", provenance=provenance())
    page = build_test_page(grids, records, figures=[drawing("one"), drawing("two")])
    return replace(page, verdicts=list_verdicts(page))


@pytest.fixture(scope="module")
def text(page: Page) -> str:
    return render_page(page)


@pytest.fixture(scope="module")
def tree(text: str) -> Element:
    return read(text)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_page_of_equal_records_is_equal_and_small(page, text):
    assert render_page(replace(page, records=dict(reversed(page.records.items())))) == text
    assert str(PAPER.parent.parent) not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text)
    assert len(text.encode()) < 3_000_000


def test_page_requests_nothing(text, tree):
    assert not [e for e in tree.all() if {"src", "srcset", "action", "poster", "style"} & set(e.attributes)]
    assert not tree.all("link") and not tree.all("iframe") and not tree.all("object")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    urls = [e.attributes["href"] for e in tree.all() if "href" in e.attributes]
    allowed = re.compile(r"#|data:text/csv;|http://127\.0\.0\.1:5000/#/experiments/")
    assert all(allowed.match(url) for url in urls)


def test_policy_allows_only_own_script_and_style(tree):
    content = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    policy = dict(part.strip().split(" ", 1) for part in content.split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for name in ("script", "style"):
        (element,) = tree.all(name)
        written = "".join(child for child in element.children if isinstance(child, str))
        digest = base64.b64encode(hashlib.sha256(written.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert not [a for e in tree.all() for a in e.attributes if a.startswith("on")]


@pytest.mark.parametrize("address", ["", "javascript:alert(1)", "file:///etc", "sqlite:///mlflow.db"])
def test_render_page_mlflow_without_http_is_input_error(address, page):
    with pytest.raises(InputError, match="does not begin with http:// or https://"):
        render_page(replace(page, mlflow=address))


# -- structure --------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_references_resolve(tree):
    ids = Counter(e.attributes["id"] for e in tree.all() if "id" in e.attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    wanted = []
    for element in tree.all():
        for name, value in element.attributes.items():
            if name in ("aria-labelledby", "aria-describedby", "for", "popovertarget"):
                wanted += value.split()
            elif name == "href" and value.startswith("#"):
                wanted.append(unquote(value[1:]))
            wanted += re.findall(r"url\(#([^)]+)\)", value)
    assert len(wanted) > 200
    assert set(wanted) <= set(ids)


def test_headings_are_in_order_and_landmarks_exist(tree):
    levels = [int(e.name[1]) for e in tree.all() if re.fullmatch("h[1-6]", e.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert tree.all("html", lang="en") and tree.all("title")[0].text
    assert len(tree.all("main")) == len(tree.all("header")) == len(tree.all("nav")) == 1
    first = next(e for e in tree.all("body")[0].all() if e.name == "a")
    assert first.attributes["href"] == "#main"


def test_tables_have_captions_and_scopes(tree):
    for table in tree.all("table"):
        assert all("scope" in th.attributes for th in table.all("th"))
        assert table.all("caption") or table.within("cells")
    for line in tree.all("tr"):
        if "data-states" in line.attributes:
            assert line.elements[0].name == "th"


def test_controls_have_names(tree):
    labels = {label.attributes["for"] for label in tree.all("label")}
    for control in [*tree.all("select"), *tree.all("input")]:
        assert control.attributes["id"] in labels
    for button in [*tree.all("button"), *tree.all("a"), *tree.all("summary")]:
        assert button.text or button.attributes.get("aria-label")


# -- contents -----------------------------------------------------------------------------------------------------


def test_page_has_every_number_of_every_table(page, tree):
    for table, section in zip(page.tables, tree.all("section", class_="table"), strict=True):
        assert section.all("h2")[0].text == table.title
        shown = [row for row in section.all("tr") if "data-states" in row.attributes]
        assert [len(row.elements) for row in shown] == [len(table.headers)] * len(table.rows)
        for row, line in zip(table.rows, shown, strict=True):
            for cell, place in zip(row.cells, line.elements, strict=True):
                if isinstance(cell, Value):
                    attributes = place.attributes
                    assert attributes["data-ours"] == full(cell.mean)
                    assert attributes["data-paper"] == (cell.paper or "-")
                    assert attributes["data-difference"] == full(cell.difference)
                    assert place.all(class_="paper")[0].text == (cell.paper or "-")
                    whole = place.all(class_="ours")[0].text
                    assert whole.startswith("-" if cell.mean is None else format(cell.mean, cell.format))
                else:
                    assert place.text == cell


def test_number_of_one_cell_links_to_run_others_list_cells(profile):
    grid = own_grid(DELTAS, profile("digits"), "own grid")
    records = {i: replace(record, experiment_id="7") for i, record in make_records([grid]).items()}
    single = own_grid(DELTAS.replace("seed: [0, 1]", "seed: [0]"), profile("digits"), "single")
    page = build_test_page([grid, single], records)
    many, one = read(render_page(page)).all("section", class_="table")
    for table, section in zip(page.tables, (many, one), strict=True):
        numbers = iter(section.all("td", class_="number"))
        for row in table.rows:
            for value in (cell for cell in row.cells if isinstance(cell, Value)):
                place = next(p for p in numbers if "data-ours" in p.attributes)
                terms = [term for sample in value.samples for term in sample.terms]
                addresses = [a.attributes["href"] for a in place.all("a", class_="run")]
                assert addresses == [f"{MLFLOW}/#/experiments/7/runs/{term.run_id}" for term in terms]
                if len(terms) > 1:
                    listed = place.all(class_="cells")[0]
                    assert [code.text for code in listed.all("code")] == [term.cell_id for term in terms]
                    assert all(repr(term.value) in listed.text for term in terms)


def test_run_link_without_experiment_or_run(profile):
    grid = own_grid(DELTAS.replace("seed: [0, 1]", "seed: [0]"), profile("digits"))
    records = make_records([grid])
    assert f"{MLFLOW}/#/experiments/0/runs/run-" in render_page(build_test_page([grid], records))
    tree = read(render_page(build_test_page([grid], {i: replace(record, run_id="") for i, record in records.items()})))
    assert not tree.all("a", class_="run")
    assert all("no run" in cells.text for cells in tree.all(class_="cells"))


def test_difference_rows_are_the_table_foot(profile):
    grid = own_grid(DELTAS, profile("digits"))
    section = read(render_page(build_test_page([grid], make_records([grid])))).all("section", class_="table")[0]
    assert [row.elements[0].text for row in section.all("tbody")[0].all("tr") if "data-states" in row.attributes] == [
        "100",
        "300",
    ]
    assert section.all("tfoot")[0].all("tr")[0].text.startswith("Delta (300-100)")


@pytest.mark.parametrize("state", [*get_args(State), "not run"])
def test_state_of_cell_sets_mark_text_and_count(state, profile):
    grid = own_grid("cells: {student: ResNet-50, loss: [ce, ls]}", profile("digits"))
    first, second = grid.cells()
    records = {first.cell_id: make_record(first)}
    if state != "not run":
        reason = "no memory left" if state in ("failed", "diverged") else ""
        records[second.cell_id] = make_record(second, state, epoch=3, reason=reason)
    tree = read(render_page(build_test_page([grid], records)))
    overview = tree.all("tbody")[0].text
    assert overview.split("of")[-1].split()[1:] == (["2"] if state == "finished" else ["1", "1"])
    lines = [row for row in tree.all("tr") if "data-states" in row.attributes]
    assert [row.attributes["data-states"] for row in lines] == ["finished", state.replace(" ", "-")]
    if state != "finished":
        (missing,) = {element.text for element in lines[1].all(class_="missing")}
        assert missing.startswith(f"{STATES[state].mark} {state}")
        assert ("(epoch 3 of 10)" in missing) == (state in ("unfinished", "cancelled"))
        assert ("no memory left" in missing) == (state in ("failed", "diverged"))


def test_states_have_distinct_marks():
    assert set(STATES) == {*get_args(State), "not run"}
    assert len({state.mark for state in STATES.values()}) == len(STATES)


def test_missing_cells_name_their_seeds(profile):
    grid = own_grid("cells: {student: ResNet-50, loss: ce, seed: [0, 1, 2]}", profile("digits"))
    first, *others = grid.cells()
    records = {cell.cell_id: make_record(cell, "failed", reason="no memory") for cell in others}
    tree = read(render_page(build_test_page([grid], {first.cell_id: make_record(first), **records})))
    assert {e.text for e in tree.all(class_="missing")} == {"✕ seeds 1, 2: failed: no memory"}


def test_number_of_another_version_is_marked_and_explained(profile):
    grid = own_grid("cells: {student: ResNet-50, loss: [ce, ls], optimizer: [lamb, adamw]}", profile("digits"))
    records = make_records([grid])
    other = list(grid.cells())[2].cell_id
    records[other] = replace(records[other], commit="fedcba9")
    section = read(render_page(build_test_page([grid], records))).all("section", class_="table")[0]
    marked = [row for row in section.all("tr") if row.all("sup")]
    assert len(marked) == 1 and other in html.unescape(str([e.attributes for e in marked[0].all("a")]))
    assert "1 cell by" in section.text and "† marks numbers" in section.text


def test_warning_appears_only_outside_the_paper_setting(profile):
    grids = {name: table_grid("table07", profile(name)) for name in ("digits", "imagenet")}
    trees = {name: read(render_page(build_test_page([grid], {}))) for name, grid in grids.items()}
    (warning,) = trees["digits"].all(class_="warning")
    assert warning.all("strong")[0].text == "These are not the paper's experiments."
    assert "ImageNet-1K at 224x224" in warning.text
    assert not trees["imagenet"].all(class_="warning")


def test_warning_about_some_tables_names_them(profile):
    page = build_test_page([table_grid(name, profile("digits")) for name in ("table07", "table08")], {})
    same, other = page.tables
    same = replace(same, setting=replace(same.setting, matches_paper=True))
    (warning,) = read(render_page(replace(page, tables=[same, other]))).all(class_="warning")
    assert warning.text.startswith("Table 8: These are not the paper's experiments.")


def test_page_has_claims_figures_and_open_questions(page, tree):
    rows = tree.all("table", id="claims-table")[0].all("tbody")[0].all("tr")
    assert [row.attributes["id"] for row in rows] == [f"claim-{verdict.claim.id}" for verdict in page.verdicts]
    assert [(r.attributes["data-paper"], r.attributes["data-run"]) for r in rows] == [
        (verdict.paper, verdict.run) for verdict in page.verdicts
    ]
    for figure, shown in zip(page.figures, tree.all("figure"), strict=True):
        assert shown.all("svg", role="img")[0].attributes["aria-label"] == figure.alt
        assert figure.caption in shown.all("figcaption")[0].text
        link = shown.all("a")[0].attributes
        assert base64.b64decode(link["href"].split(",")[1]).decode() == figure.csv
        assert link["download"] == f"{figure.name}.csv"
    (questions,) = [s for s in tree.all("section") if s.attributes["aria-labelledby"] == "questions"]
    assert [code.text for code in questions.all("th", scope="row")] == [entry.field for entry in ledger()]


def test_environment_counts_cells(profile):
    grid = own_grid("cells: {student: ResNet-50, loss: [ce, ls], optimizer: [lamb, adamw]}", profile("digits"))
    ids = [cell.cell_id for cell in grid.cells()]
    made = [provenance(), provenance(device="NVIDIA A100", devices=8), provenance(versions={"torch": "2.8.0"}), None]
    records = make_records([grid])
    for cell_id, where in zip(ids, made, strict=True):
        records[cell_id] = replace(records[cell_id], provenance=where)
    tree = read(render_page(build_test_page([grid], records)))
    (section,) = [s for s in tree.all("section") if s.attributes["aria-labelledby"] == "environment"]
    rows = [[cell.text for cell in row.elements] for body in section.all("tbody") for row in body.all("tr")]
    assert rows == [
        ["Code", "commit 0123abc", "4"],
        ["Device", "cpu", "2"],
        ["8 x NVIDIA A100", "1"],
        ["Threads", "1", "3"],
        ["torch", "2.9.0", "2"],
        ["2.8.0", "1"],
        ["Not recorded", "device, threads and libraries", "1"],
    ]


def test_report_without_records_renders(profile):
    grid = own_grid("cells: {student: ResNet-50, loss: ce}", profile("digits"))
    tree = read(render_page(build_test_page([grid], {})))
    assert "No cell is finished." in tree.text
    assert not tree.all(id="claims") and not tree.all(id="figures") and not tree.all("input", type="radio")
