"""API keys over real HTTP."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rhocache_schemas.api import Problem
from rhocache_service.app import create_app
from rhocache_service.auth import COOKIE
from rhocache_service.keys import SCOPES, Keys

from .conftest import served, settings_without_ray


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


def cookie(key: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={key}"}


def test_the_first_key_closes_the_service_at_once(http: httpx.Client, keys: Keys) -> None:
    assert http.get("/v1/jobs").is_success
    row, key = keys.create("first", ["admin"])
    refused = http.get("/v1/jobs")
    assert problem(refused) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert http.get("/v1/jobs", headers=bearer(key)).is_success
    assert http.get("/v1/jobs", headers=cookie(key)).is_success
    for wrong in (bearer("rhk_x"), {"Authorization": f"Basic {key}"}):
        assert problem(http.get("/v1/jobs", headers=wrong)) == (401, "unauthenticated")
    keys.revoke(row.id)
    assert problem(http.get("/v1/jobs", headers=bearer(key))) == (401, "unauthenticated")
    for open_path in ("/livez", "/metrics"):
        assert http.get(open_path).is_success


def test_an_expired_key(http: httpx.Client, keys: Keys) -> None:
    _, key = keys.create("old", ["admin"], expires_at=int(time.time()) - 1)
    assert problem(http.get("/v1/jobs", headers=bearer(key))) == (401, "unauthenticated")


# Every operation that needs a scope, from the OpenAPI document.
def operations(http: httpx.Client) -> list[tuple[str, str]]:
    paths = http.get("/openapi.json").json()["paths"]
    return [(method, path) for path in paths for method in paths[path] if path.startswith("/v1/")]


def scope_of(method: str, path: str) -> str:
    if path.startswith("/v1/caches"):
        return "caches:read"
    return "jobs:read" if method == "get" else "jobs:write"


def test_every_operation_asks_for_its_scope(http: httpx.Client, keys: Keys) -> None:
    made = {scope: keys.create(scope, [scope])[1] for scope in SCOPES}
    found = operations(http)
    assert len(found) > 12
    for method, path in found:
        place = path.replace("{job}", "job_" + "0" * 24).replace("{cache}", "cache_0")
        place = place.replace("{name}", "manifest.json")
        json = {} if method == "post" else None
        assert problem(http.request(method, place, json=json)) == (401, "unauthenticated")
        for scope, key in made.items():
            response = http.request(method, place, json=json, headers=bearer(key))
            permitted = scope in ("admin", scope_of(method, path))
            assert (response.status_code == 403) is not permitted, (method, path, scope)
            if not permitted:
                assert scope_of(method, path) in response.json()["detail"]


def test_keys_are_in_no_log(
    http: httpx.Client, keys: Keys, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = keys.create("quiet", ["admin"])
    http.get("/v1/jobs", headers=bearer(key))
    http.get(f"/v1/jobs?api_key={key}", headers=bearer(key + "x"))
    told = capfd.readouterr()
    assert key[-43:] not in told.out + told.err + caplog.text


def test_a_foreign_page_can_not_use_a_cookie(http: httpx.Client, keys: Keys) -> None:
    _, key = keys.create("page", ["admin"])
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        response = http.post("/v1/jobs", json={}, headers=cookie(key) | {"Origin": origin})
        assert problem(response) == (403, "forbidden")
    own = {"Origin": str(http.base_url).rstrip("/")}
    response = http.post("/v1/jobs", json={}, headers=cookie(key) | own)
    assert problem(response) == (422, "validation-failed")
