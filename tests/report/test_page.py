"""The report as one page: what it says, that it asks for nothing, and that everybody can use it."""

import base64
import hashlib
import html
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import get_args
from urllib.parse import unquote

import pytest
from html_pages import DELTAS, MLFLOW, Element, drawing, page_of, provenance, read, verdicts_of
from synthetic import PAPER, all_grids, make_record, own_grid, records_of, table_grid

from pld_grid import records as records_module
from pld_grid.csvtext import full
from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report.page import Page, page_html
from pld_grid.report.page_table import STATES
from pld_grid.report.values import Value
from pld_grid.spec import ledger

Profiles = Callable[[str], Profile]


def patchy(grids: Sequence[Grid], reason: str = "no memory") -> dict[str, Record]:
    """Records of every state, and some missing."""
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    unfinished = [state for state in get_args(records_module.State) if state != "finished"]
    found = {}
    for place, cell_id in enumerate(sorted(cells)):
        state = (*unfinished, "not run")[place // 2 % (len(unfinished) + 1)] if place % 2 else "finished"
        if state == "finished":
            found[cell_id] = make_record(cells[cell_id], experiment_id="7", provenance=provenance())
        elif state != "not run":
            found[cell_id] = make_record(cells[cell_id], state, epoch=3, reason=reason if state == "failed" else "")
    return found


@pytest.fixture(scope="module")
def page(profile: Profiles) -> Page:
    """All tables with three seeds in every state, all claims, and figures of one and the same drawing."""
    grids = all_grids(profile("digits"), seeds=3)
    page = page_of(grids, patchy(grids), figures=[drawing("one"), drawing("two")])
    return replace(page, verdicts=verdicts_of(page))


@pytest.fixture(scope="module")
def text(page: Page) -> str:
    return page_html(page)


@pytest.fixture(scope="module")
def tree(text: str) -> Element:
    return read(text)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_equal_records_make_equal_bytes(page: Page, text: str) -> None:
    assert page_html(replace(page, records=dict(reversed(page.records.items())))) == text


def test_it_names_no_machine_path_or_time(text: str) -> None:
    assert str(PAPER.parent.parent) not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text)


def test_it_asks_for_nothing_but_itself(text: str, tree: Element) -> None:
    assert not [e for e in tree.all() if {"src", "srcset", "action", "poster", "style"} & set(e.attributes)]
    assert not tree.all("link") and not tree.all("iframe") and not tree.all("object")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    addresses = [e.attributes["href"] for e in tree.all() if "href" in e.attributes]
    assert {
        re.match(r"#|data:text/csv;|http://127\.0\.0\.1:5000/#/experiments/", a) is not None for a in addresses
    } == {True}


def test_its_policy_names_its_own_script_and_style_and_no_others(tree: Element) -> None:
    content = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    policy = dict(part.strip().split(" ", 1) for part in content.split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for name in ("script", "style"):
        (element,) = tree.all(name)
        written = "".join(child for child in element.children if isinstance(child, str))
        digest = base64.b64encode(hashlib.sha256(written.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert not [a for e in tree.all() for a in e.attributes if a.startswith("on")]


def test_it_is_small_enough_to_send(text: str) -> None:
    assert len(text.encode()) < 3_000_000


def test_importing_the_report_loads_no_template_engine() -> None:
    heavy = {"jinja2", "matplotlib", "scipy", "torch"}
    code = f"import sys, pld_grid.report.page; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("address", ["", "javascript:alert(1)", "file:///etc", "sqlite:///mlflow.db"])
def test_an_address_that_no_browser_can_follow_is_one_clear_error(address: str, page: Page) -> None:
    with pytest.raises(InputError, match="does not begin with http:// or https://"):
        page_html(replace(page, mlflow=address))


# -- structure --------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_all_references_lead_somewhere(tree: Element) -> None:
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


def test_headings_are_in_order_and_landmarks_are_there(tree: Element) -> None:
    levels = [int(e.name[1]) for e in tree.all() if re.fullmatch("h[1-6]", e.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert tree.all("html", lang="en") and tree.all("title")[0].text
    assert len(tree.all("main")) == len(tree.all("header")) == len(tree.all("nav")) == 1
    first = next(e for e in tree.all("body")[0].all() if e.name == "a")
    assert first.attributes["href"] == "#main"


def test_tables_have_captions_and_scopes(tree: Element) -> None:
    for table in tree.all("table"):
        assert all("scope" in th.attributes for th in table.all("th"))
        assert table.all("caption") or table.within("cells")
    for line in tree.all("tr"):
        if "data-states" in line.attributes:
            assert line.elements[0].name == "th"


def test_controls_have_names(tree: Element) -> None:
    labels = {label.attributes["for"] for label in tree.all("label")}
    for control in [*tree.all("select"), *tree.all("input")]:
        assert control.attributes["id"] in labels
    for button in [*tree.all("button"), *tree.all("a"), *tree.all("summary")]:
        assert button.text or button.attributes.get("aria-label")


# -- what it says -----------------------------------------------------------------------------------------------------


def test_every_number_of_every_table_is_there(page: Page, tree: Element) -> None:
    for table, section in zip(page.tables, tree.all("section", class_="table"), strict=True):
        assert section.all("h2")[0].text == table.title
        shown = [row for row in section.all("tr") if "data-states" in row.attributes]
        assert [len(row.elements) for row in shown] == [len(table.headers)] * len(table.rows)
        for row, line in zip(table.rows, shown, strict=True):
            for cell, place in zip(row.cells, line.elements, strict=True):
                if isinstance(cell, Value):
                    said = place.attributes
                    assert said["data-ours"] == full(cell.mean)
                    assert said["data-paper"] == (cell.paper or "-")
                    assert said["data-difference"] == full(cell.difference)
                    assert place.all(class_="paper")[0].text == (cell.paper or "-")
                    whole = place.all(class_="ours")[0].text
                    assert whole.startswith("-" if cell.mean is None else format(cell.mean, cell.format))
                else:
                    assert place.text == cell


def test_a_number_of_one_cell_links_to_its_run_and_others_list_their_cells(profile: Profiles) -> None:
    grid = own_grid(DELTAS, profile("digits"), "own grid")
    records = {i: replace(record, experiment_id="7") for i, record in records_of([grid]).items()}
    single = own_grid(DELTAS.replace("seed: [0, 1]", "seed: [0]"), profile("digits"), "single")
    page = page_of([grid, single], records)
    many, one = read(page_html(page)).all("section", class_="table")
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


def test_without_an_experiment_links_lead_to_mlflows_own(profile: Profiles) -> None:
    grid = table_grid("table07", profile("digits"))
    assert f"{MLFLOW}/#/experiments/0/runs/run-" in page_html(page_of([grid], records_of([grid])))


def test_a_cell_that_mlflow_does_not_have_says_so_and_has_no_link(profile: Profiles) -> None:
    grid = own_grid(DELTAS.replace("seed: [0, 1]", "seed: [0]"), profile("digits"))
    records = {i: replace(record, run_id="") for i, record in records_of([grid]).items()}
    tree = read(page_html(page_of([grid], records)))
    assert not tree.all("a", class_="run")
    assert {cells.text.count("no run") > 0 for cells in tree.all(class_="cells")} == {True}


def test_differences_of_rows_are_the_foot_of_their_table(profile: Profiles) -> None:
    grid = own_grid(DELTAS, profile("digits"))
    section = read(page_html(page_of([grid], records_of([grid])))).all("section", class_="table")[0]
    assert [row.elements[0].text for row in section.all("tbody")[0].all("tr") if "data-states" in row.attributes] == [
        "100",
        "300",
    ]
    assert section.all("tfoot")[0].all("tr")[0].text.startswith("Delta (300-100)")


@pytest.mark.parametrize("state", [*get_args(records_module.State), "not run"])
def test_each_state_has_its_own_mark_text_and_count(state: str, profile: Profiles) -> None:
    grid = own_grid("cells: {student: ResNet-50, loss: [ce, ls]}", profile("digits"))
    first, second = grid.cells()
    records = {first.cell_id: make_record(first)}
    if state != "not run":
        reason = "no memory left" if state in ("failed", "diverged") else ""
        records[second.cell_id] = make_record(second, state, epoch=3, reason=reason)
    tree = read(page_html(page_of([grid], records)))
    overview = tree.all("tbody")[0].text
    assert overview.split("of")[-1].split()[1:] == (["2"] if state == "finished" else ["1", "1"])
    lines = [row for row in tree.all("tr") if "data-states" in row.attributes]
    assert [row.attributes["data-states"] for row in lines] == ["finished", state.replace(" ", "-")]
    if state != "finished":
        (missing,) = {element.text for element in lines[1].all(class_="missing")}
        assert missing.startswith(f"{STATES[state].mark} {state}")
        assert ("(epoch 3 of 10)" in missing) == (state in ("unfinished", "cancelled"))
        assert ("no memory left" in missing) == (state in ("failed", "diverged"))


def test_marks_differ_in_shape() -> None:
    assert set(STATES) == {*get_args(records_module.State), "not run"}
    assert len({state.mark for state in STATES.values()}) == len(STATES)


def test_missing_seeds_are_named(profile: Profiles) -> None:
    grid = own_grid("cells: {student: ResNet-50, loss: ce, seed: [0, 1, 2]}", profile("digits"))
    first, *others = grid.cells()
    records = {cell.cell_id: make_record(cell, "failed", reason="no memory") for cell in others}
    tree = read(page_html(page_of([grid], {first.cell_id: make_record(first), **records})))
    assert {e.text for e in tree.all(class_="missing")} == {"✕ seeds 1, 2: failed: no memory"}


def test_numbers_of_other_code_are_marked_and_the_caption_says_why(profile: Profiles) -> None:
    grid = own_grid("cells: {student: ResNet-50, loss: [ce, ls], optimizer: [lamb, adamw]}", profile("digits"))
    records = records_of([grid])
    other = list(grid.cells())[2].cell_id
    records[other] = replace(records[other], commit="fedcba9")
    section = read(page_html(page_of([grid], records))).all("section", class_="table")[0]
    marked = [row for row in section.all("tr") if row.all("sup")]
    assert len(marked) == 1 and other in html.unescape(str([e.attributes for e in marked[0].all("a")]))
    assert "1 cell by" in section.text and "† marks numbers" in section.text


def test_the_warning_is_there_only_where_it_applies(profile: Profiles) -> None:
    grids = {name: table_grid("table07", profile(name)) for name in ("digits", "imagenet")}
    trees = {name: read(page_html(page_of([grid], {}))) for name, grid in grids.items()}
    (warning,) = trees["digits"].all(class_="warning")
    assert warning.all("strong")[0].text == "These are not the paper's experiments."
    assert "ImageNet-1K at 224x224" in warning.text
    assert not trees["imagenet"].all(class_="warning")


def test_a_warning_that_is_not_about_all_tables_names_those_that_it_is_about(profile: Profiles) -> None:
    page = page_of([table_grid(name, profile("digits")) for name in ("table07", "table08")], {})
    same, other = page.tables
    same = replace(same, setting=replace(same.setting, as_in_paper=True))
    (warning,) = read(page_html(replace(page, tables=[same, other]))).all(class_="warning")
    assert warning.text.startswith("Table 8: These are not the paper's experiments.")


def test_claims_figures_ledger_and_environment_are_there(page: Page, tree: Element) -> None:
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


def test_the_environment_counts_cells(profile: Profiles) -> None:
    grid = own_grid("cells: {student: ResNet-50, loss: [ce, ls], optimizer: [lamb, adamw]}", profile("digits"))
    ids = [cell.cell_id for cell in grid.cells()]
    made = [provenance(), provenance(device="NVIDIA A100", devices=8), provenance(versions={"torch": "2.8.0"}), None]
    records = records_of([grid])
    for cell_id, where in zip(ids, made, strict=True):
        records[cell_id] = replace(records[cell_id], provenance=where)
    tree = read(page_html(page_of([grid], records)))
    (section,) = [s for s in tree.all("section") if s.attributes["aria-labelledby"] == "environment"]
    rows = [[cell.text for cell in row.elements] for body in section.all("tbody") for row in body.all("tr")]
    assert rows == [
        ["Code", "commit 0123abc", "4"], ["Device", "cpu", "2"], ["8 x NVIDIA A100", "1"], ["Threads", "1", "3"],
        ["torch", "2.9.0", "2"], ["2.8.0", "1"], ["Not recorded", "device, threads and libraries", "1"],
    ]  # fmt: skip


def test_an_empty_report_is_a_page_too(profile: Profiles) -> None:
    grid = own_grid("cells: {student: ResNet-50, loss: ce}", profile("digits"))
    tree = read(page_html(page_of([grid], {})))
    assert "No cell is finished." in tree.text
    assert not tree.all(id="claims") and not tree.all(id="figures") and not tree.all("input", type="radio")
