"""Small requests for large work, and what no storage takes: refused at once, or given up."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rhocache_service.app import create_app
from rhocache_service.settings import Settings

from ..conftest import served, settings_without_ray, wait_until

MOST_BYTES = 200_000
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a dataset of one shard, under as many names as anyone likes."""
    root = tmp_path_factory.mktemp("root")
    (root / "0.tar").touch()
    for number in range(100):
        (root / str(number)).symlink_to(".")
    return root


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    return create_app(settings_without_ray(root, max_body_bytes=MOST_BYTES))


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def job(root: Path, **changes: Any) -> dict[str, Any]:
    model = {"model": f"local-dir:{root}/model"}
    return {"dataset": f"{root}/data", "output": f"{root}/cache", "reference": model} | changes


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs:validate"])
@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "/{00000..99999999}.tar"},
        {"dataset": "/" + "{a,b}" * 30_000},
        {"dataset": "/" + "{" * 50_000 + "}" * 50_000},
        {"dataset": "/{1..1" + "0" * 5000 + "}"},
        {"dataset": "/" + "a" * 300},
        {"dataset": "/" + "a/" * 3000},
        {"output": "/" + "a" * 300},
        {"output": "/" + "a/" * 3000},
        {"shards": "*" * 100_000},
    ],
    ids=range(9),
)
def test_what_is_refused_at_once(
    http: httpx.Client, root: Path, path: str, changes: dict[str, str]
) -> None:
    under = {n: f"{root}{v}" if v.startswith("/") else v for n, v in changes.items()}
    response = http.post(path, json=job(root, **under))
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/problems/validation-failed"
    assert len(response.content) < 20_000


def test_the_limit_is_stated(http: httpx.Client, root: Path) -> None:
    response = http.post("/v1/jobs:validate", json=job(root, dataset=f"{root}/{{0..9999999}}"))
    assert "may stand for 1,000,000 names" in response.json()["detail"]
    assert "not for 10,000,000" in response.json()["detail"]


def test_names_that_are_too_long_elsewhere(http: httpx.Client, root: Path) -> None:
    long = "a" * 5000
    model = {"model": "ViT-B-32", "pretrained": long}
    refused = http.post("/v1/jobs:validate", json=job(root, reference=model))
    assert refused.status_code == 422
    assert "open_clip has no weights" in refused.json()["detail"]
    for path in (f"/v1/jobs/{long}", f"/v1/caches/{long}/files/shards/{long}"):
        assert http.get(path).status_code == 404


def test_a_deep_body(http: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    body = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    response = http.post("/v1/jobs", content=body, headers=headers)
    assert response.status_code in (400, 422), response.text


def test_a_body_of_just_so_many_bytes(http: httpx.Client, root: Path) -> None:
    def post(size: int) -> httpx.Response:
        body = json.dumps(job(root)).encode()
        padded = body[:-1] + b" " * (size - len(body)) + b"}"
        assert len(padded) == size
        headers = {"content-type": "application/json"}
        return http.post("/v1/jobs", content=padded, headers=headers)

    assert post(MOST_BYTES).status_code == 202
    refused = post(MOST_BYTES + 1)
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems/payload-too-large")
    assert str(MOST_BYTES) in refused.json()["detail"]


def test_nothing_is_done_for_a_client_that_has_gone(
    http: httpx.Client, root: Path, tmp_path: Path
) -> None:
    """A million names that are there, so that the work would go on for minutes."""
    body = json.dumps(job(root, dataset=f"{root}/{{0..99}}/{{0..99}}/{{0..99}}/0.tar")).encode()
    place = http.base_url
    with socket.create_connection((place.host, place.port or 0)) as client:
        client.sendall(
            b"POST /v1/jobs:validate HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
    gone = 'duration_seconds_count{method="POST",route="/v1/jobs:validate",status="499"}'
    wait_until(lambda: gone in http.get("/metrics").text, tmp_path)


def test_a_full_disk(small_disk: Path, root: Path) -> None:
    elsewhere = f"sqlite:///{root}/registry"
    app = create_app(Settings(data_dir=small_disk, database_url=elsewhere, ray_address=NOWHERE))
    with served(app) as url, httpx.Client(base_url=url) as http:
        before = http.get("/readyz").json()["detail"]
        with (small_disk / "rest").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1024)):
                pass
        full = http.get("/readyz")
        lives = http.get("/livez")
        (small_disk / "rest").unlink()
        after = http.get("/readyz").json()["detail"]
    assert before == after == "Ray can't be reached"
    assert (full.status_code, full.json()["detail"]) == (503, "the data dir can't be written")
    assert lives.is_success
