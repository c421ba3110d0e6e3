"""Pages in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry

from ..conftest import served, settings_without_ray
from ..made import make_cache

# What would be done, were it ever taken for markup.
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>"


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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def spec(root: Path) -> ScoreSpec:
    """Of a dataset of 61 pairs, of which 007 has no picture, with a committed cache."""
    captions = {f"{number:03}": f"picture {number}" for number in range(60)}
    return make_cache(root / "made", captions | {"evil": HOSTILE}, missing="007")


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    return create_app(settings_without_ray(root))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


@pytest.fixture
def registry(app: FastAPI) -> Registry:
    return app.state.registry
