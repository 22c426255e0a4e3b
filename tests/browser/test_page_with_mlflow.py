"""The page of a grid that really ran, and its links into a real MLflow server."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from chromium import Browser
from cli_process import RETRY_TIMEOUT_SECONDS, Service
from mlflow_servers import ui_server
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from pld_grid.report.html_page import Page, render_page
from pld_grid.report.html_table import make_run_url
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.report.values import Value
from pld_grid.service import report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import records
from pld_grid.track.run_content import make_run_name

pytestmark = pytest.mark.ray

PRINTED = """\
Optimizer,CE,KD,DIST,PLD,Delta_KD,KL
adamw,70.10,69.20,71.00,70.85,1.65,
lamb,69.90,70.30,70.41,71.16,0.86,
"""
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Site:
    """A page on disk, what it was made of, and the MLflow that has its runs."""

    file: Path
    table: Table
    records: records.Records
    mlflow: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Site]:
    """`browser` is asked for first: without it nothing need be trained."""
    service = Service(tmp_path_factory.mktemp("site"))
    service.run("run")
    (service.folder / "printed.csv").write_text(PRINTED)
    grid = service.load_grid()
    database = f"sqlite:///{service.folder / '.pld_grid' / 'mlflow.db'}"
    records = report_writer.fetch_records([grid], Workspace(str(service.store), database), "store")
    beside = replace(grid, layout=grid.layout.model_copy(update={"paper": "printed"}))
    table = build_table(beside, records, service.folder)
    file = service.folder / "index.html"
    file.write_text(render_page(Page([table], records, [], [], NOWHERE)), encoding="utf-8")
    with ui_server(service) as (address, _):
        yield Site(file, table, records, address)


def _address(browser: Browser, text: str) -> None:
    """Puts an address into the field, and leaves it."""
    browser.one("#mlflow").send_keys(Keys.CONTROL + "a" + Keys.NULL, text, Keys.TAB)


def _wait_for(browser: Browser, text: str) -> None:
    _waiting(browser).until(lambda driver: text in driver.find_element("css selector", "body").text)


def _waiting(browser: Browser) -> WebDriverWait[WebDriver]:
    # A page that is replaced while it is read is read again.
    return WebDriverWait(
        browser.driver,
        RETRY_TIMEOUT_SECONDS,
        ignored_exceptions=[NoSuchElementException, StaleElementReferenceException],
    )


def _column(table: Table, header: str) -> list[Value]:
    cells = [row.cells[table.headers.index(header)] for row in table.rows]
    return [cell for cell in cells if isinstance(cell, Value)]


def test_it_opens_from_a_file_without_a_request_or_a_complaint(browser, site):
    browser.open(site.file)
    assert browser.driver.title.startswith("Tables")
    assert browser.messages() == []
    assert browser.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_the_toggle_shows_ours_the_papers_and_the_difference(browser, site):
    browser.open(site.file)
    values = _column(site.table, "PLD")
    place = site.table.headers.index("PLD") + 1
    shown = f".table tbody tr[data-states] > :nth-child({place})"
    ours = [format(value.mean, ".2f") for value in values if value.mean is not None]
    assert browser.shown(shown) == ours and len(ours) == 2
    browser.one("label[for=view-paper]").click()
    assert browser.shown(shown) == ["70.85", "71.16"]
    browser.one("label[for=view-difference]").click()
    differences = [format(value.difference, "+.2f") for value in values if value.difference is not None]
    assert browser.shown(shown) == differences
    browser.one("label[for=view-ours]").click()
    assert browser.shown(shown) == ours


def test_a_number_leads_to_its_run_in_mlflow(browser, site):
    browser.open(site.file)
    _address(browser, site.mlflow)
    (term,) = _column(site.table, "PLD")[0].samples[0].terms
    place = site.table.headers.index("PLD") + 1
    link = browser.one(f".table tbody tr[data-states] > :nth-child({place}) a.run")
    record = site.records[term.cell_id]
    assert record.experiment_id
    assert link.get_attribute("href") == f"{site.mlflow}/#/experiments/{record.experiment_id}/runs/{term.run_id}"
    link.click()
    _wait_for(browser, make_run_name(site.table.cells[term.cell_id]))
    assert term.run_id in browser.driver.current_url
    # Where a record does not know its experiment, the link says 0: MLflow goes by the run alone.
    browser.driver.get("about:blank")
    browser.driver.get(make_run_url(site.mlflow, "", term.run_id))
    _wait_for(browser, make_run_name(site.table.cells[term.cell_id]))


def test_a_differences_cells_and_their_runs_are_reached_with_the_keyboard(browser, site):
    browser.open(site.file)
    _address(browser, site.mlflow)
    value = _column(site.table, "Delta_KD")[1]
    browser.tab_to(lambda e: e.tag_name == "button" and "Delta_KD, Optimizer=lamb" in e.accessible_name, Keys.TAB)
    browser.press(Keys.ENTER)
    (cells,) = browser.all(".cells:popover-open")
    (sample,) = value.samples
    assert [code.text for code in cells.find_elements("css selector", "code")] == [t.cell_id for t in sample.terms]
    for term in sample.terms:
        assert repr(term.value) in cells.text
    browser.press(Keys.ESCAPE)
    assert browser.all(".cells:popover-open") == []
    browser.press(Keys.SPACE)
    browser.tab_to(lambda e: e.text == "run", Keys.TAB)
    browser.press(Keys.ENTER)
    _wait_for(browser, make_run_name(site.table.cells[sample.terms[0].cell_id]))


def test_the_address_is_remembered_and_a_wrong_one_refused(browser, site):
    def base() -> set[str]:
        return {(link.get_attribute("href") or "").partition("/#/")[0] for link in browser.all("a.run")}

    def leads_to_after_a_reload(address: str) -> bool:
        # Chromium writes what a page stores a moment later, so that a reload at once may not see it yet.
        def reload(driver: WebDriver) -> bool:
            driver.refresh()
            return base() == {address}

        return _waiting(browser).until(reload)

    browser.open(site.file)
    assert base() == {NOWHERE}
    _address(browser, f"{site.mlflow}/")
    assert base() == {site.mlflow}
    assert f"Links lead to {site.mlflow}" in browser.one("#status").text
    assert leads_to_after_a_reload(site.mlflow)
    for refused in ("javascript:alert(1)", "mlflow", "ftp://127.0.0.1"):
        _address(browser, refused)
        assert base() == {site.mlflow}
        assert browser.one("#mlflow").get_attribute("aria-invalid") == "true"
    _address(browser, " ")
    assert base() == {NOWHERE}
    assert leads_to_after_a_reload(NOWHERE)
    assert browser.messages() == []
