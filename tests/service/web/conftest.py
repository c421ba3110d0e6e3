"""Pages in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """A page that no script but ours may run in, and that complains of nothing."""
    opened = browser.new_page(base_url=url)
    opened.set_default_timeout(120_000)
    told: list[str] = []
    opened.on("console", lambda said: told.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    yield opened
    opened.close()
    # The browser reports refused requests too, which the pages handle.
    assert [each for each in told if not each.startswith("Failed to load resource")] == []
