"""API keys over real HTTP."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rhocache_schemas.errors import Problem
from rhocache_service.api.auth import COOKIE
from rhocache_service.app import create_app
from rhocache_service.registry.api_keys import Keys

from ..conftest import served, settings_without_ray


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(settings_without_ray(tmp_path))


@pytest.fixture
def keys(app: FastAPI) -> Keys:
    return app.state.keys


@pytest.fixture
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def problem(response: httpx.Response) -> tuple[int, str]:
    parsed = Problem.model_validate_json(response.content)
    return response.status_code, parsed.type.rpartition("/")[2]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def cookie(value: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={value}"}


def test_the_first_key_closes_the_service_at_once(http: httpx.Client, keys: Keys) -> None:
    assert http.get("/v1/jobs").is_success
    row, key = keys.create("first", ["admin"])
    refused = http.get("/v1/jobs")
    assert problem(refused) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert http.get("/v1/jobs", headers=bearer(key)).is_success
    assert problem(http.get("/v1/jobs", headers=cookie(key))) == (401, "unauthenticated")
    for wrong in (bearer("rhk_x"), {"Authorization": f"Basic {key}"}):
        assert problem(http.get("/v1/jobs", headers=wrong)) == (401, "unauthenticated")
    keys.revoke(row.id)
    assert problem(http.get("/v1/jobs", headers=bearer(key))) == (401, "unauthenticated")
    assert http.get("/livez").is_success


def test_an_expired_key(http: httpx.Client, keys: Keys) -> None:
    _, key = keys.create("old", ["admin"], expires_at=int(time.time()) - 1)
    assert problem(http.get("/v1/jobs", headers=bearer(key))) == (401, "unauthenticated")


def test_keys_are_in_no_log(
    http: httpx.Client, keys: Keys, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = keys.create("quiet", ["admin"])
    http.get("/v1/jobs", headers=bearer(key))
    http.get(f"/v1/jobs?api_key={key}", headers=bearer(key + "x"))
    told = capfd.readouterr()
    assert key[-43:] not in told.out + told.err + caplog.text
