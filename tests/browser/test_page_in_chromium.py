"""What the page does by itself: sorting, filters, keyboard, no scripts, small screens, in the dark, on paper."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from chromium import Browser
from paper_records import PAPER, make_record, table_grid
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from pld_grid.experiment.profile import Profile
from pld_grid.report.claims.claims_file import read_claims
from pld_grid.report.claims.verdict import judge_claims
from pld_grid.report.html_page import Page, render_page
from pld_grid.report.table_builder import build_table
from pld_grid.store import records as records_module
from pld_grid.store.records import CellRecord

pytestmark = pytest.mark.slow

NAMES = ("table03", "table05", "table06")
# The background that a text really stands on is the nearest one that is not transparent.
CONTRASTS = """
const luminance = (colour) => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
  const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === "rgba(0, 0, 0, 0)" && element.parentElement ? ground(element.parentElement) : colour;
};
const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
const ratios = [];
for (const element of document.body.querySelectorAll("*")) {
  if (!own(element) || !element.checkVisibility() || element.closest("svg, script, option, .unseen")) continue;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((x, y) => y - x);
  ratios.push([(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 120)]);
}
return ratios;
"""


@pytest.fixture(scope="module")
def page(profile: Callable[[str], Profile]) -> Page:
    """Three tables with cells in every state, and the paper's claims."""
    grids = [table_grid(name, profile("digits"), seeds=2) for name in NAMES]
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    unfinished = [state for state in get_args(records_module.State) if state != "finished"]
    records: dict[str, CellRecord] = {}
    for place, (cell_id, cell) in enumerate(sorted(cells.items())):
        state = unfinished[place // 4 % len(unfinished)] if place % 4 == 0 else "finished"
        reason = "out of memory: tried to allocate two gibibytes more than there are" if state == "failed" else ""
        records[cell_id] = make_record(cell, state, epoch=3, reason=reason, experiment_id="1")
    tables = [build_table(grid, records, PAPER) for grid in grids]
    claims = read_claims(PAPER / "claims.yaml")
    return Page(tables, records, [], judge_claims(claims, tables, PAPER), "http://127.0.0.1:5000")


@pytest.fixture(scope="module")
def file(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render_page(page), encoding="utf-8")
    return path


@pytest.fixture
def open_page(browser: Browser, file: Path) -> Browser:
    browser.open(file)
    return browser


def _column(browser: Browser, table: str, place: int, view: str = "ours") -> list[str]:
    """A column's cells as they are seen, from top to bottom."""
    rows = f"section[aria-labelledby=table-{table}] tbody tr[data-states]"
    return [
        cell.find_element("css selector", f".{view}").text.split()[0]
        for cell in browser.all(f"{rows} > :nth-child({place})")
        if cell.is_displayed()
    ]


def _header(browser: Browser, table: str, text: str) -> WebElement:
    headers = browser.all(f"section[aria-labelledby=table-{table}] .sortable > thead th")
    return next(header for header in headers if header.text.rstrip("↕↑↓ ") == text)


def _sorted(shown: list[str], descending: bool) -> bool:
    """Whether numbers are in order, and those that are missing come last."""
    numbers = [float(text) for text in shown if text != "-"]
    return shown == [*(t for t in shown if t != "-"), *(t for t in shown if t == "-")] and numbers == sorted(
        numbers, reverse=descending
    )


# -- sorting ----------------------------------------------------------------------------------------------------------


def test_a_click_sorts_up_then_down_then_as_it_was(open_page):
    before = _column(open_page, "table06", 6)
    assert len(set(before)) > 10 and not _sorted(before, False)
    header = _header(open_page, "table06", "Top-1")
    for direction in ("ascending", "descending"):
        header.find_element("css selector", "button").click()
        assert header.get_attribute("aria-sort") == direction
        shown = _column(open_page, "table06", 6)
        assert sorted(shown) == sorted(before) and _sorted(shown, direction == "descending")
    header.find_element("css selector", "button").click()
    assert header.get_attribute("aria-sort") == "none"
    assert _column(open_page, "table06", 6) == before


def test_missing_numbers_come_last_in_both_directions(open_page):
    header = _header(open_page, "table03", "Delta_DIST")
    for descending in (False, True):
        header.find_element("css selector", "button").click()
        shown = _column(open_page, "table03", 9)
        assert "-" in shown and _sorted(shown, descending)


def test_hyperparameters_sort_as_numbers_and_names_as_words(open_page):
    _header(open_page, "table06", "alpha").find_element("css selector", "button").click()
    rows = "section[aria-labelledby=table-table06] tbody tr[data-states]"
    alphas = [cell.text for cell in open_page.all(f"{rows} > :nth-child(2)")]
    given = [float(text) for text in alphas if text]
    assert given == sorted(given) and len(set(given)) > 3 and alphas[len(given) :] == [""] * (len(alphas) - len(given))
    _header(open_page, "table06", "Method").find_element("css selector", "button").click()
    names = [cell.text for cell in open_page.all(f"{rows} > :nth-child(1)")]
    assert names == sorted(names, key=str.lower)


def test_one_column_sorts_at_a_time_and_follows_the_toggle(open_page):
    _header(open_page, "table03", "KD").find_element("css selector", "button").click()
    _header(open_page, "table03", "PLD").find_element("css selector", "button").click()
    headers = open_page.all("section[aria-labelledby=table-table03] .sortable > thead th")
    assert [header.get_attribute("aria-sort") for header in headers].count("ascending") == 1
    for view in ("paper", "difference", "ours"):
        open_page.one(f"label[for=view-{view}]").click()
        assert _sorted(_column(open_page, "table03", 8, view), False)


def test_rows_of_differences_stay_below(open_page):
    button = _header(open_page, "table05", "CE").find_element("css selector", "button")
    for _ in range(2):
        button.click()
        assert open_page.all("section[aria-labelledby=table-table05] tr[data-states]")[-1].text.startswith("Delta")


# -- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["incomplete", "failed", "unfinished", "queued", "finished"])
def test_rows_are_filtered_by_the_states_of_their_cells(state, open_page):
    rows = open_page.all("tr[data-states]")
    states = [(row.get_attribute("data-states") or "").split() for row in rows]
    expected = [state in row or (state == "incomplete" and "finished" not in row) for row in states]
    assert any(expected) and not all(expected)
    choice = open_page.one("#state")
    choice.find_element("css selector", f"option[value={state}]").click()
    assert [row.is_displayed() for row in rows] == expected
    assert open_page.one("#status").text == f"{sum(expected)} of {len(rows)} rows"
    choice.find_element("css selector", "option").click()
    assert all(row.is_displayed() for row in rows)


def test_claims_are_filtered_by_both_verdicts(open_page, page):
    open_page.one("#claims-paper option[value=inconsistent]").click()
    open_page.one("#claims-run option[value='not enough evidence']").click()
    shown = [row.get_attribute("id") for row in open_page.all("#claims-table tbody tr") if row.is_displayed()]
    assert shown == [
        f"claim-{verdict.claim.id}"
        for verdict in page.verdicts
        if (verdict.paper, verdict.run) == ("inconsistent", "not enough evidence")
    ]
    assert shown
    assert open_page.one("#claims-status").text == f"{len(shown)} of {len(page.verdicts)} claims"


# -- for everybody ----------------------------------------------------------------------------------------------------


def test_everything_works_with_the_keyboard_alone(open_page):
    open_page.press(Keys.TAB)
    assert open_page.focused.text == "Skip to the tables"
    open_page.press(Keys.ENTER)
    assert open_page.focused.get_attribute("id") == "main"
    open_page.press(Keys.TAB)
    assert open_page.focused.get_attribute("id") == "view-ours"
    open_page.press(Keys.ARROW_RIGHT)
    assert open_page.one("#view-paper").is_selected()
    assert open_page.shown(".ours") == []
    open_page.press(Keys.ARROW_LEFT)
    assert open_page.shown(".paper") == []
    open_page.press(Keys.TAB)
    assert open_page.focused.get_attribute("id") == "state"
    button = _header(open_page, "table03", "PLD").find_element("css selector", "button")
    open_page.tab_to(lambda element: element == button, Keys.TAB)
    outline = open_page.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    open_page.press(Keys.SPACE)
    assert _sorted(_column(open_page, "table03", 8), False)
    open_page.press(Keys.ENTER)
    assert _sorted(_column(open_page, "table03", 8), True)
    assert open_page.focused == button


def test_every_control_has_a_name_and_a_role(open_page):
    controls = [c for c in open_page.all("a, button, input, select, summary, [role=region]") if c.is_displayed()]
    assert len(controls) > 150
    assert [c.get_attribute("outerHTML") for c in controls if not c.accessible_name.strip()] == []
    roles = {c.tag_name: c.aria_role for c in controls}
    assert (roles["a"], roles["button"], roles["select"]) == ("link", "button", "combobox")
    assert open_page.messages() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(scheme, browser, file):
    with browser.emulating(prefers_color_scheme=scheme):
        browser.open(file)
        ratios = browser.driver.execute_script(CONTRASTS)
        assert len(ratios) > 300
        assert [ratio for ratio in ratios if ratio[0] < 4.5] == []


@pytest.mark.parametrize("pixels", [320, 390, 1400])
def test_only_tables_scroll_sideways(pixels, browser, file):
    with browser.as_wide_as(pixels):
        browser.open(file)
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= pixels
        boxes = browser.all(".scroll")
        scrolls = [b for b in boxes if b.get_property("scrollWidth") > b.get_property("clientWidth")]  # type: ignore[operator]
        assert scrolls or pixels > 1000


def test_on_paper_all_three_numbers_are_there_and_no_controls(browser, file):
    browser.open(file)
    with browser.emulating(media="print"):
        numbers = len(browser.all("td[data-ours]"))
        assert {len(browser.shown(kind)) for kind in ("td .ours", "td .paper", "td .difference")} == {numbers}
        assert browser.shown("nav, .controls, .skip") == []


def test_on_paper_no_table_is_cut(browser, file):
    browser.open(file)
    # 186 mm: an A4 page without its margins.
    with browser.as_wide_as(703), browser.emulating(media="print"):
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 703


def test_without_scripts_it_is_read_toggled_and_opened(browser, file, page):
    with browser.without_scripts():
        browser.driver.get(file.as_uri())
        assert browser.shown("#state, #mlflow, .sort, #claims-status") == []
        values = [value for table in page.tables for value in table.values]
        means = [value.mean for value in values]
        shown = [text.split()[0].rstrip("†") for text in browser.shown("td > .ours")]
        assert len(shown) == len(values)
        assert [math.nan if t == "-" else float(t) for t in shown] == pytest.approx(
            [math.nan if mean is None else mean for mean in means], abs=0.0051, nan_ok=True
        )
        browser.one("label[for=view-paper]").click()
        assert browser.shown(".ours") == [] and len(browser.shown("td > .paper")) == len(values)
        browser.one("label[for=view-ours]").click()
        button = browser.one("button.of")
        button.click()
        assert len(browser.shown(".cells")) == 1
        browser.press(Keys.ESCAPE)
        assert browser.shown(".cells") == []
