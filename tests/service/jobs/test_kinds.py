"""Jobs of a kind that the service had once; tests/service/test_job_kinds.py has one that it has."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rhocache_schemas.job.kinds import read_spec
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.tables import JobRow

from ..conftest import served, settings_without_ray


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(settings_without_ray(tmp_path))


@pytest.fixture
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def row(app: FastAPI, tmp_path: Path) -> JobRow:
    spec = read_spec({"kind": "gone", "output": f"{tmp_path}/out", "colour": "red"})
    return app.state.registry.advance(app.state.registry.add(spec), JobState.FAILED)


def test_its_jobs_are_still_shown(http: httpx.Client, row: JobRow) -> None:
    (listed,) = http.get("/v1/jobs").raise_for_status().json()["data"]
    assert (listed["spec"]["kind"], listed["spec"]["colour"]) == ("gone", "red")
    page = http.get(f"/jobs/{row.id}").raise_for_status().text
    assert "this service has no job kind &#39;gone&#39;" in page
    assert "Submit it again" not in page
    assert row.id in http.get("/").raise_for_status().text


def test_they_are_not_taken_up_again(http: httpx.Client, row: JobRow) -> None:
    for answer in (http.post(f"/v1/jobs/{row.id}/retry"), http.get(f"/v1/jobs/{row.id}/shards")):
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-failed")
        assert "no job kind 'gone'" in answer.json()["detail"]
