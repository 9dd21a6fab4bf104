"""A real browser on a host of the topology: Chromium without a screen, and a person's ways with `tunfwd web`.

Chromium and its driver run in the host's namespace and reach nothing else. Selenium, which speaks to the
driver, has its sockets made there by a thread of its own.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import netns
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chromium.remote_connection import ChromiumRemoteConnection
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from netns.node import TUNFWD, Node
from netns.topology import Host

T = TypeVar("T")

PROGRAMS = ("chromium", "chromedriver")
DRIVER_PORT = 9515
START_TIME = 120.0  # s for a browser on a busy machine
TIME = 90.0  # s until something is on the page
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
WITNESS = """
    window.violations = [];
    window.failures = [];
    const witness = (name, take) => addEventListener(name, take, true);
    witness("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
    witness("error", (event) => failures.push(event.message ?? "not loaded: " + event.target.outerHTML));
    witness("unhandledrejection", (event) => failures.push(String(event.reason)));
"""


class BrowserError(Exception):
    """The browser, or a page in it, is not as it is to be."""


class _Inside(ChromiumRemoteConnection):
    """Has its connections made by a thread in the host's namespace."""

    pool: ThreadPoolExecutor

    def execute(self, command: str, params: Any) -> Any:
        return self.pool.submit(super().execute, command, params).result()


class Browser:
    """A context. `driver` is Selenium's, for what has no method here."""

    driver: webdriver.Remote

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._process: subprocess.Popen[Any] | None = None
        self._pool = ThreadPoolExecutor(1, initializer=netns.setns, initargs=(host.namespace,))

    def __enter__(self) -> Self:
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise BrowserError(f"not installed: {' '.join(missing)} (scripts/setup --test)")
        with (self._folder / "chromedriver.log").open("wb") as log:
            self._process = self._host.start(
                ["chromedriver", f"--port={DRIVER_PORT}"],
                stdout=log,
                stderr=log,
                env=os.environ | {"HOME": str(self._folder)},
            )
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for option in (*OPTIONS, f"--user-data-dir={self._folder / 'profile'}"):
            options.add_argument(option)
        connection = _Inside(f"http://127.0.0.1:{DRIVER_PORT}", "goog", "chrome")
        connection.pool = self._pool
        self.until(self._listens, "the driver listens", START_TIME)
        try:
            self.driver = webdriver.Remote(connection, options=options)
        except WebDriverException as failure:
            raise BrowserError(f"the browser did not start: {failure}") from None
        self.protocol("Page.addScriptToEvaluateOnNewDocument", source=WITNESS)
        self.look_like()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):
            self.driver.quit()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(TIME)
        self._pool.shutdown()

    def _listens(self) -> bool:
        def connects() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", DRIVER_PORT), 1):
                return True
            return False

        return self._pool.submit(connects).result()

    def protocol(self, command: str, **params: object) -> Any:
        """Have the browser do what only its own protocol has."""
        return self.driver.execute("executeCdpCommand", {"cmd": command, "params": params})["value"]

    def look_like(
        self, width: int = 1100, height: int = 800, *, dark: bool = False, scale: float = 1
    ) -> None:
        """Take a size, and light or dark colours."""
        self.protocol(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.protocol("Emulation.setEmulatedMedia", features=[scheme, still])

    # --- what a person does

    def open(self, address: str) -> None:
        """Open an address, and wait until the page has heard of the daemon."""
        self.driver.get(address)
        self.until(lambda: "asking" not in self.text("#network-text"), "the page has heard of the daemon")

    def view(self, name: str) -> None:
        """Go to a view by its link."""
        self.click(f"nav a[href='#{name}']")
        self.until(lambda: self.find(f"[data-view={name}]").is_displayed(), f"the view {name} is shown")

    def find(self, css: str) -> WebElement:
        """Return an element that is there."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def find_all(self, css: str) -> list[WebElement]:
        """Return all of them."""
        return list(self.driver.find_elements(By.CSS_SELECTOR, css))

    def text(self, css: str) -> str:
        """Return what an element says to who sees it; "" where it is not there."""
        found = self.find_all(css)
        return found[0].text if found else ""

    def click(self, css: str) -> None:
        """Click an element once it is there, in the middle of the window."""
        self.until(lambda: any(one.is_displayed() for one in self.find_all(css)), f"{css} is there")
        element = next(one for one in self.find_all(css) if one.is_displayed())
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def button(self, text: str, within: str = "body") -> None:
        """Click the button that says so."""
        path = f".//*[self::button or self::a][normalize-space()='{text}']"

        def shown() -> WebElement | None:
            found = [one for area in self.find_all(within) for one in area.find_elements(By.XPATH, path)]
            return next((one for one in found if one.is_displayed()), None)

        element = self.until(shown, f"a button {text!r} in {within}")
        assert element is not None
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def write(self, css: str, text: str) -> None:
        """Write into a field, instead of what it has."""
        field = self.find(css)
        field.clear()
        field.send_keys(text)

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(key).perform()

    def script(self, source: str, *arguments: object) -> Any:
        """Run a script in the page, and return its result."""
        return self.driver.execute_script(source, *arguments)

    def until(self, condition: Callable[[], T], what: str, seconds: float = TIME) -> T:
        """Ask until the answer is true, and return it. Raises BrowserError: not `what`."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(WebDriverException):  # an element that has just gone
                if answer := condition():
                    return answer
            if time.monotonic() > deadline:
                shown = f"; the page:\n{self.text('body')[-2000:]}" if hasattr(self, "driver") else ""
                raise BrowserError(f"not within {seconds:g} s: {what}{shown}")
            time.sleep(0.1)


@contextmanager
def page(node: Node) -> Iterator[str]:
    """Run `tunfwd web` beside a node's daemon; its address."""
    with (node.folder / "web.log").open("wb") as log:
        process = node.host.start(
            [TUNFWD, "web", "--no-browser"],
            env=os.environ | node.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    said = process.stdout
    assert said is not None
    try:
        address = said.readline().strip()
        if not address:
            raise BrowserError(f"tunfwd web: {(node.folder / 'web.log').read_text()}")
        yield address
    finally:
        process.terminate()
        process.wait(TIME)
        said.close()
