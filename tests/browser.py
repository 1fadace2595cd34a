"""A page in a real browser without a window: what it says on its console, and what it asks of any network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Seen:
    """A page, and all that it should not have done."""

    page: Any
    complaints: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Seen]:
    """A file in headless Chromium, once its script is ready; skips where there is no Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, _NAMES)), None)
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        seen = Seen(context.new_page())

        def complain(what: str) -> None:
            seen.complaints.append(what)

        seen.page.on("console", lambda message: complain(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: complain(f"error: {error}"))
        seen.page.on("dialog", lambda dialog: (complain("dialog"), dialog.dismiss()))
        seen.page.on(
            "request", lambda request: request.url.startswith("file:") or complain(f"asks {request.url}")
        )
        seen.page.goto(path.resolve().as_uri())
        seen.page.wait_for_selector("body[data-ready]", timeout=60_000)
        yield seen
        browser.close()


def look_at_all(page: Any) -> None:
    """Scroll through a page, so that everything in it is drawn."""
    for chart in page.query_selector_all("[data-chart]"):
        chart.scroll_into_view_if_needed()
        page.wait_for_timeout(30)
    page.wait_for_function("document.querySelectorAll('[data-chart]:not(:has(svg))').length === 0")
