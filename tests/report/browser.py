"""Drive a real browser and record what a page does in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = "chromium-headless-shell", "chromium", "chromium-browser"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
"""The same engine without windows takes less of the processor, if it is installed."""
MILLISECONDS = 60_000


@contextmanager
def started() -> Iterator[Browser]:
    """Start Chromium; skips the tests where it or Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=MILLISECONDS
        )
        yield Browser(browser)
        browser.close()


PLACES = """points => {
    const { x, y } = report.page.map;
    const span = (values) => [Math.min(...values), Math.max(...values)];
    const [[left, right], [top, bottom]] = [span(x), span(y)];
    const { clientWidth: w, clientHeight: h } = document.querySelector('#map-box');
    const scale = 0.9 * Math.min(w / Math.max(1, right - left), h / Math.max(1, bottom - top));
    return points.map((at) => [(x[at] - (left + right) / 2) * scale + w / 2,
                               ((top + bottom) / 2 - y[at]) * scale + h / 2]);
}"""
"""Where a whole map draws some of its points, in pixels from its corner."""


class Browser:
    """A browser with a context for each kind of settings.

    Pages share the contexts, because they store nothing there, and a context of its own takes as long as
    opening a page.
    """

    def __init__(self, process: Any) -> None:
        self.process = process
        self._contexts: dict[tuple[tuple[str, Any], ...], Any] = {}

    def get_context(self, **settings: Any) -> Any:
        """Return the context of the settings."""
        key = tuple(sorted(settings.items()))
        if key not in self._contexts:
            # Without reduced motion, the page scrolls smoothly, and takes its time.
            plain = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
            context = self._contexts[key] = self.process.new_context(**plain | settings)
            context.grant_permissions(["clipboard-read", "clipboard-write"])
        return self._contexts[key]


class Opened:
    """A page in a browser with its own settings, with its messages and requests."""

    def __init__(self, browser: Browser, path: Path, fragment: str = "", **settings: Any) -> None:
        self.context = browser.get_context(**settings)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.set_default_timeout(MILLISECONDS)
        self.page.goto(f"{path.as_uri()}{fragment}")
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def until(self, script: str) -> None:
        """Wait for a condition from outside, because the page's policy forbids evaluating text."""
        for _ in range(MILLISECONDS // 50):
            if self.evaluate(script):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {script}")

    def wait_for_frames(self) -> None:
        """Wait until the page is laid out and drawn: two frames and their tasks."""
        self.evaluate(
            "() => new Promise((done) => "
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        )

    def chosen(self, name: str) -> Any:
        return self.evaluate("name => report.chosen[name]", name)

    def medoids(self) -> list[tuple[float, float]]:
        """Bring the map into sight, and return where in the window the medoids are, by label."""
        self.page.locator("#map-box").scroll_into_view_if_needed()
        self.wait_for_frames()
        box = self.page.locator("#map-box .over").bounding_box()
        places = self.evaluate(PLACES, self.evaluate("() => Array.from(report.page.clusters.points)"))
        return [(box["x"] + x, box["y"] + y) for x, y in places]

    def copied(self, selector: str) -> list[dict[str, str]]:
        """Press a copy button and return the copied rows by column."""
        self.page.locator(f"{selector} >> [data-role=copy]").first.click()
        heads, *rows = self.evaluate("navigator.clipboard.readText()").split("\n")
        return [dict(zip(heads.split("\t"), row.split("\t"), strict=True)) for row in rows]

    def numbers(self, title: str) -> list[dict[str, str]]:
        """Open the numbers of a chart and copy them."""
        figure = f"figure:has(h3:text-is('{title}'))"
        self.page.locator(f"{figure} >> summary").first.click()
        return self.copied(figure)

    def cells(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())

    def close(self) -> None:
        self.page.close()
