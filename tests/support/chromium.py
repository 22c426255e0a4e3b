"""What people do in a browser."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement


class Browser:
    """One window, and what people do in it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        """Opens a file with nothing remembered of earlier visits."""
        self.driver.get(path.as_uri())
        self.driver.execute_script("localStorage.clear()")
        self.driver.get("about:blank")
        self.messages()
        self.driver.get(path.as_uri())

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def shown(self, selector: str) -> list[str]:
        """The texts of what is to be seen of a selector."""
        return [element.text for element in self.all(selector) if element.is_displayed()]

    def press(self, *keys: str) -> None:
        """Types on the keyboard, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def tab_to(self, wanted: Callable[[WebElement], bool], key: str, limit: int = 400) -> WebElement:
        """Presses a key until what has the focus is wanted."""
        for _ in range(limit):
            self.press(key)
            if wanted(self.focused):
                return self.focused
        raise AssertionError(
            f"not reached with {limit} keys; the focus is on {self.focused.get_attribute('outerHTML')}"
        )

    def messages(self) -> list[str]:
        """What the console says since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def emulating(self, **media: str) -> Iterator[None]:
        """With another medium (`media="print"`) or preference (`prefers_color_scheme="dark"`)."""
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items() if k != "media"]
        self._command("Emulation.setEmulatedMedia", media=media.get("media", ""), features=features)
        try:
            yield
        finally:
            self._command("Emulation.setEmulatedMedia", media="", features=[])

    @contextlib.contextmanager
    def as_wide_as(self, pixels: int) -> Iterator[None]:
        """With a screen of another width."""
        self._command(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=844, deviceScaleFactor=1, mobile=pixels < 600
        )
        try:
            yield
        finally:
            self._command("Emulation.clearDeviceMetricsOverride")

    @contextlib.contextmanager
    def without_scripts(self) -> Iterator[None]:
        """With scripts switched off for the pages opened meanwhile."""
        self._command("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self._command("Emulation.setScriptExecutionDisabled", value=False)

    def _command(self, name: str, **arguments: object) -> None:
        self.driver.execute_cdp_cmd(name, arguments)
