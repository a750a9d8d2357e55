"""A headless Chromium, driven by Playwright; the machine's own, nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


class Browser:
    """One page. `problems` are what its console or its policy complained of, `requests` what it asked for."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False):
        if CHROMIUM is None:
            pytest.skip("no chromium on this machine")
        playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
        self.playwright = playwright.sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        self.page = self.chromium.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            is_mobile=width < 600,
        )
        self.problems: list[str] = []
        self.requests: list[str] = []
        quiet = ("log", "debug", "info")
        self.page.on("console", lambda note: note.type not in quiet and self.problems.append(note.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.chromium.close()
        self.playwright.stop()

    def open(self, path: Path) -> None:
        self.page.goto(Path(path).absolute().as_uri())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.page.evaluate(expression)

    def wait(self, expression: str) -> None:
        """Until an expression is true. `wait_for_function` evaluates a string in the page, which its policy forbids."""
        look = f"const look = () => ({expression}) ? done() : requestAnimationFrame(look)"
        self.run(f"new Promise((done, fail) => {{ {look}; look(); setTimeout(fail, 10000, 'waited 10 s in vain'); }})")

    def click(self, selector: str) -> None:
        """A real click in the middle of the first match."""
        self.page.locator(selector).first.click()

    def type(self, text: str) -> None:
        self.page.keyboard.insert_text(text)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        self.page.screenshot(path=path, full_page=whole)
