"""The service's application with no Ray to run jobs in: they stay where a test puts them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry

from ..service.conftest import served, settings_without_ray


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def application(root: Path) -> Iterator[tuple[str, Registry]]:
    app = create_app(settings_without_ray(root))
    with served(app) as url:
        yield url, app.state.registry


@pytest.fixture
def url(application: tuple[str, Registry]) -> str:
    return application[0]


@pytest.fixture
def registry(application: tuple[str, Registry]) -> Registry:
    return application[1]
