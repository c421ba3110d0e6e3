"""A cache whose index is not the one that its manifest names, over REST and on the pages."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from caches import flip_index
from fastapi import FastAPI

from rhocache_schemas.errors import Problem
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_service.app import create_app
from rhocache_service.registry.caches import cache_id
from rhocache_service.registry.jobs import Registry

from ..conftest import served, settings_without_ray
from ..made import SHARD, completed, make_cache


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    return create_app(settings_without_ray(root))


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def spec(root: Path, request: pytest.FixtureRequest) -> ScoreSpec:
    folder = re.sub(r"\W", "_", request.node.name)
    return make_cache(root / folder, {f"{number}": "a caption" for number in range(5)}, "3")


def check(answer: httpx.Response, told: str) -> None:
    assert answer.status_code == 409, answer.text
    problem = Problem.model_validate_json(answer.content)
    assert problem.type.endswith("/problems/cache-corrupt")
    assert re.search(told, problem.detail)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("summary.json", "pairs"),
        ("summary.json", "pairs?order=highest"),
        ("index.parquet", "pairs?key=1"),
        ("index.parquet", "files/index.parquet"),
    ],
)
def test_what_is_read_of_a_cache(
    http: httpx.Client, app: FastAPI, spec: ScoreSpec, name: str, place: str
) -> None:
    completed(app.state.registry, spec)
    told = flip_index(spec.output, name)
    check(http.get(f"/v1/caches/{cache_id(spec.output)}/{place}"), told)


def test_what_needs_no_index_is_still_there(
    http: httpx.Client, app: FastAPI, spec: ScoreSpec
) -> None:
    row = completed(app.state.registry, spec)
    flip_index(spec.output)
    cache = f"/v1/caches/{cache_id(spec.output)}"
    for place in (
        "/v1/caches",
        cache,
        f"{cache}/files/manifest.json",
        f"{cache}/pictures?shard={SHARD}&row=0",
        f"/v1/jobs/{row.id}",
        f"/v1/jobs/{row.id}/manifest",
    ):
        assert http.get(place).status_code == 200


@pytest.mark.parametrize("place", ["shards", "errors"])
def test_what_is_read_of_a_job(
    http: httpx.Client, app: FastAPI, spec: ScoreSpec, place: str
) -> None:
    row = completed(app.state.registry, spec)
    assert http.get(f"/v1/jobs/{row.id}/{place}").status_code == 200
    told = flip_index(spec.output)
    check(http.get(f"/v1/jobs/{row.id}/{place}"), told)


def test_a_job_that_is_looked_at_before_it_is_submitted(
    http: httpx.Client, spec: ScoreSpec
) -> None:
    told = flip_index(spec.output)
    job = spec.model_dump(mode="json")
    check(http.post("/v1/jobs:validate", json=job), told)
    replacing = http.post("/v1/jobs:validate", json=job | {"replace": True})
    assert (replacing.status_code, replacing.json()["shards"]) == (200, 1)


def test_another_caches_damage_hinders_no_job(
    http: httpx.Client, app: FastAPI, spec: ScoreSpec, root: Path
) -> None:
    """Though it is the last one, by which the time of the next would be told."""
    registry: Registry = app.state.registry
    row = completed(registry, spec)
    assert row.progress is not None
    registry.note(row, progress=row.progress | {"pairs_per_second": 10.0})
    job = spec.model_dump(mode="json") | {"output": f"{root}/fresh"}
    told = http.post("/v1/jobs:validate", json=job).json()
    assert told["predicted_seconds"] is not None
    flip_index(spec.output)
    answer = http.post("/v1/jobs:validate", json=job)
    assert (answer.status_code, answer.json()) == (200, told)


def test_the_pages(http: httpx.Client, app: FastAPI, spec: ScoreSpec) -> None:
    row = completed(app.state.registry, spec)
    summary = flip_index(spec.output, "summary.json")
    page = http.get(f"/caches/{cache_id(spec.output)}")
    assert page.status_code == 409
    assert re.search(summary, page.text)
    flip_index(spec.output, "summary.json")
    told = flip_index(spec.output)
    page = http.get(f"/caches/{cache_id(spec.output)}?view=random")
    assert page.status_code == 409
    assert page.headers["content-type"].startswith("text/html")
    assert "The cache is damaged" in page.text
    assert re.search(told, page.text)
    page = http.get(f"/jobs/{row.id}")
    assert page.status_code == 200, "a job is shown all the same"
    assert re.search(told, page.text)
