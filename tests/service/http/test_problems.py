"""Rubbish over real HTTP: every answer is a problem that names what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from rhocache_schemas.errors import Problem
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry

from ..conftest import served, settings_without_ray


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("service")
    (root / "out").symlink_to("/etc")
    return root


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    return create_app(settings_without_ray(root))


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def job(root: Path, **changes: Any) -> dict[str, Any]:
    fields = {
        "dataset": f"{root}/data",
        "output": f"{root}/cache",
        "reference": {"model": f"local-dir:{root}/model"},
    }
    return fields | changes


def problem(response: httpx.Response, status: int, slug: str) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    parsed = Problem.model_validate_json(response.content)
    assert parsed.type.endswith(f"/{slug}")
    assert parsed.status == status
    assert parsed.request_id == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return parsed


def test_a_job_is_taken(http: httpx.Client, root: Path) -> None:
    response = http.post("/v1/jobs", json=job(root))
    assert response.status_code == 202
    taken = response.json()
    assert response.headers["location"] == f"/v1/jobs/{taken['id']}"
    assert http.get(response.headers["location"]).json() == taken
    assert taken["status"] == "validating"
    problem(http.get(f"/v1/jobs/{taken['id']}/manifest"), 404, "not-found")
    assert http.get(f"/v1/jobs/{taken['id']}/errors").json()["data"] == []
    assert http.post(f"/v1/jobs/{taken['id']}/cancel").json()["status"] == "cancelling"
    problem(http.post(f"/v1/jobs/{taken['id']}/cancel"), 409, "job-state-conflict")


def test_pages(http: httpx.Client, root: Path) -> None:
    ids = [http.post("/v1/jobs", json=job(root)).json()["id"] for _ in range(3)]
    page = http.get("/v1/jobs", params={"limit": 2}).json()
    assert [listed["id"] for listed in page["data"]] == [ids[2], ids[1]]
    assert (page["object"], page["has_more"], page["last_id"]) == ("list", True, ids[1])
    rest = http.get("/v1/jobs", params={"after": ids[1]}).json()
    assert rest["first_id"] == ids[0]
    for wrong in ("owner", "{", '{"owner": 1}'):
        problem(http.get("/v1/jobs", params={"metadata": wrong}), 422, "validation-failed")


@pytest.mark.parametrize("body", [b"{", b'{"dataset": "\xff"}', b"[" * 100_000, b"nan"])
def test_what_is_not_json(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    problem(response, 400, "malformed-request")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_what_a_foreign_page_can_send(http: httpx.Client, root: Path, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = http.post("/v1/jobs", content=json.dumps(job(root)).encode(), headers=headers)
    problem(response, 415, "unsupported-media-type")


def test_what_nobody_foresaw_is_not_shown(app: FastAPI, http: httpx.Client, root: Path) -> None:
    registry: Registry = app.state.registry
    row = registry.get(http.post("/v1/jobs", json=job(root)).json()["id"])
    assert row is not None
    registry.note(row, spec={"secret": 1})
    found = problem(http.get(f"/v1/jobs/{row.id}"), 500, "internal")
    assert "secret" not in found.detail
    registry.note(row, spec=row.spec)


def test_a_registry_that_does_not_answer(app: FastAPI, http: httpx.Client) -> None:
    with app.state.registry.engine.begin() as database:
        database.execute(text("ALTER TABLE jobs RENAME TO away"))
    problem(http.get("/v1/jobs"), 503, "unavailable")
    with app.state.registry.engine.begin() as database:
        database.execute(text("ALTER TABLE away RENAME TO jobs"))
    assert http.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"dataset": None}, "/dataset"),
        ({"entrypoint": "rm -rf /"}, "/entrypoint"),
        ({"reference": {"model": "ViT-B-32"}}, "/reference"),
        ({"reference": {"model": "local-dir:/m", "code": 1}}, "/reference/code"),
        ({"error_budget": 2}, "/error_budget"),
        ({"metadata": {"a/b": 3}}, "/metadata/a~1b"),
    ],
)
def test_a_body_that_does_not_fit(
    http: httpx.Client, root: Path, changes: dict[str, Any], pointer: str
) -> None:
    found = problem(http.post("/v1/jobs", json=job(root, **changes)), 422, "validation-failed")
    assert pointer in {error.pointer for error in found.errors}


def test_a_newer_version(http: httpx.Client, root: Path) -> None:
    found = problem(
        http.post("/v1/jobs", json=job(root, format_version="2.0")), 422, "validation-failed"
    )
    assert "2.0" in found.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "/etc"},
        {"output": "/tmp/elsewhere"},
        {"reference": {"model": "local-dir:/etc"}},
        {"reference": {"model": "ViT-B-32", "pretrained": "/etc/passwd"}},
        {"dataset": "s3://bucket/x"},
    ],
)
def test_places_outside_the_roots(http: httpx.Client, root: Path, changes: dict) -> None:
    problem(http.post("/v1/jobs", json=job(root, **changes)), 403, "uri-not-allowed")


def test_a_symlink_out_of_the_roots(http: httpx.Client, root: Path) -> None:
    found = problem(
        http.post("/v1/jobs", json=job(root, output=f"{root}/out/x")), 403, "uri-not-allowed"
    )
    assert f"{root}/out/x" in found.detail


@pytest.mark.parametrize("dataset", ["http://host/x", "pipe:cat /etc/passwd"])
def test_other_schemes(http: httpx.Client, root: Path, dataset: str) -> None:
    response = http.post("/v1/jobs", json=job(root, dataset=dataset))
    assert response.status_code in (403, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_unknown_things(http: httpx.Client) -> None:
    problem(http.get("/v1/jobs/job_0"), 404, "not-found")
    problem(http.post("/v1/jobs/job_0/cancel"), 404, "not-found")
    problem(http.get("/v1/jobs/%00"), 404, "not-found")
    problem(http.get("/v1/nothing"), 404, "not-found")
    problem(http.get("/v1/jobs", params={"after": "job_0"}), 404, "not-found")
    problem(http.delete("/v1/jobs"), 405, "malformed-request")
    for parameters in ({"limit": 0}, {"limit": 10**9}, {"limit": "x"}, {"status": "asleep"}):
        problem(http.get("/v1/jobs", params=parameters), 422, "validation-failed")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_a_host_that_is_not_ours(http: httpx.Client, host: str) -> None:
    problem(http.get("/v1/jobs", headers={"host": host}), 403, "forbidden")


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "[::1]:8321", "LOCALHOST"])
def test_hosts_that_are_ours(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


def test_not_ready_without_ray(http: httpx.Client) -> None:
    problem(http.get("/readyz"), 503, "unavailable")
