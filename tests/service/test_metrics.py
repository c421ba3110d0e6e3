"""/metrics: its values are true, and what strangers send does not become a label."""

import re
import secrets
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from rhocache_schemas.cache.documents import Fault, Progress, RunTotals
from rhocache_schemas.job.spec import JobState
from rhocache_service import metrics
from rhocache_service.app import create_app
from rhocache_service.http.middleware.access_log import METHODS
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database
from rhocache_service.settings import Settings

from .conftest import (
    COMMAND,
    Service,
    free_port,
    metric,
    routes_of,
    served,
    settings_without_ray,
)
from .made import make_cache


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(settings_without_ray(tmp_path))


@pytest.fixture
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def send_rubbish(http: httpx.Client) -> set[str]:
    """Requests with something made up in each of their parts; gives what was made up."""
    made = [f"RUBBISH{secrets.token_hex(8)}" for _ in range(16)]
    (method, path, query, header, host, kind, job, cache, file, static, slug, body, key, origin,
     etag, shard) = made  # fmt: skip
    places = ("/", "/v1/jobs", "/livez", "/metrics", "/docs", "/static/page.css", f"/{path}")
    for place in places:
        http.request(method, place)
        http.request(method.lower(), place)
        http.request("TRACE", place)
        http.request("OPTIONS", place, headers={"Access-Control-Request-Method": method})
        http.get(place, params={query: query}, headers={header: header, "Host": host})
        http.get(place, params={query: query, "status": query}, headers={"X-Request-Id": header})
    for place in (
        f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/{path}", f"/jobs/{job}",
        f"/v1/caches/{cache}", f"/v1/caches/{cache}/files/{file}", f"/caches/{cache}",
        f"/static/{static}", f"/static/swagger/{static}", f"/problems/{slug}", f"/v1/jobs/{job}/",
        f"/v1/caches/{cache}/pictures?shard={shard}&row=0", f"/v1/jobs%2F{job}", f"//{path}",
    ):  # fmt: skip
        http.get(place, headers={"If-None-Match": etag, "Range": etag})
        http.delete(place)
        http.request(method, place)
    http.post("/v1/jobs", content=body, headers={"Content-Type": f"application/{kind}"})
    http.post("/v1/jobs", json={body: body})
    http.post("/v1/jobs", json={}, headers={"Origin": origin})
    http.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"})
    http.post("/sign-in", data={"key": key, "to": path})
    return set(made)


def scrape(http: httpx.Client) -> tuple[str, int]:
    """What /metrics says, and of how many series."""
    answer = http.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return answer.text, sum(len(family.samples) for family in families)


def test_what_a_stranger_sends_is_no_label(app: FastAPI, http: httpx.Client) -> None:
    send_rubbish(http)
    scrape(http)
    _, before = scrape(http)
    made = send_rubbish(http)
    text, after = scrape(http)
    assert after == before, "more rubbish makes no more series"
    assert not [each for each in made if each.lower() in text.lower()]
    methods = set(re.findall(r'method="([^"]*)"', text))
    assert {"GET", "other"} <= methods <= {*METHODS, "other"}
    known = {getattr(route, "path", "?") for route in routes_of(app)} | {"none"}
    assert set(re.findall(r'route="([^"]*)"', text)) <= known


def test_metrics_want_a_right_of_their_own(app: FastAPI, http: httpx.Client) -> None:
    assert http.get("/metrics").status_code == 200
    _, other = app.state.keys.create("other", ["jobs:read", "jobs:write", "caches:read"])
    _, key = app.state.keys.create("prometheus", ["metrics:read"])
    assert http.get("/metrics").status_code == 401
    refused = http.get("/metrics", headers={"Authorization": f"Bearer {other}"})
    assert refused.status_code == 403
    assert "metrics:read" in refused.json()["detail"]
    assert "rhocache_jobs" not in refused.text
    assert http.get("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert http.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 403


def test_jobs_are_counted_where_they_are(app: FastAPI, http: httpx.Client, tmp_path: Path) -> None:
    registry: Registry = app.state.registry
    url = http.base_url
    assert metric(url, "rhocache_jobs") == metric(url, "rhocache_queue_depth") == 0
    assert metric(url, "rhocache_last_progress_timestamp_seconds") == 0, "none runs"
    spec = make_cache(tmp_path / "made", {"one": "a caption"})
    validating, queued, running = (registry.add(spec) for _ in range(3))
    left = metric(url, "rhocache_job_status_duration_seconds_count", status="validating")
    faulty = metric(url, "rhocache_jobs_ended_total", status="failed", code="dataset-empty")
    registry.advance(queued, JobState.QUEUED)
    running = registry.advance(running, JobState.QUEUED)
    running = registry.advance(running, JobState.IN_PROGRESS, started_at=registry.now())
    for status, count in {"validating": 1, "queued": 1, "in_progress": 1, "completed": 0}.items():
        assert metric(url, "rhocache_jobs", status=status) == count
    assert metric(url, "rhocache_queue_depth") == 2
    moves = metric(url, "rhocache_job_status_duration_seconds_count", status="validating")
    assert moves - left == 2, "that were left by a job"
    oldest = registry.running()[0].created_at
    assert metric(url, "rhocache_oldest_waiting_timestamp_seconds") <= oldest
    assert metric(url, "rhocache_last_progress_timestamp_seconds") == running.moved_at > 0
    registry.note(running, progress=_progress(pairs_per_second=12.5).model_dump(mode="json"))
    assert metric(url, "rhocache_running_pairs_per_second") == 12.5
    registry.advance(running, JobState.FAILED, Fault(code="dataset-empty", detail="no shard"))
    ended = metric(url, "rhocache_jobs_ended_total", status="failed", code="dataset-empty")
    assert ended == faulty + 1
    assert metric(url, "rhocache_running_pairs_per_second") == 0
    registry.advance(validating, JobState.FAILED)
    assert metric(url, "rhocache_jobs", status="failed") == 2
    assert metric(url, "rhocache_queue_depth") == 1


def _progress(**changes: Any) -> Progress:
    return Progress(phase="encoding", updated_at=1.0, started_at=changes.pop("at", 7.0), **changes)


def test_what_a_run_does_is_counted_once(http: httpx.Client) -> None:
    """Also where more ends between two snapshots than they name, and runs follow one another."""

    def counted() -> dict[str, float]:
        url = http.base_url
        return {
            "ok": metric(url, "rhocache_pairs_total", outcome="ok"),
            "bad": metric(url, "rhocache_pairs_total", outcome="failed"),
            "truncated": metric(url, "rhocache_pair_failures_total", code="image-truncated"),
            "lost": metric(url, "rhocache_pairs_lost_total"),
            "shards": metric(url, "rhocache_shards_total", outcome="committed"),
            "unread": metric(url, "rhocache_shard_failures_total", code="shard-unreadable"),
            "image": metric(url, "rhocache_stage_busy_seconds_total", stage="image"),
            "encoders": metric(url, "rhocache_encoder_seconds_total"),
        }

    at_first = counted()
    first = RunTotals(pairs_ok=900, pairs_failed={"image-truncated": 3}, shards_committed=700,
                      stage_seconds={"image": 4.0}, encoder_seconds=5.0)  # fmt: skip
    more = RunTotals(pairs_ok=1000, pairs_failed={"image-truncated": 5}, shards_committed=800,
                     shards_failed={"shard-unreadable": 2}, stage_seconds={"image": 6.0},
                     encoder_seconds=8.0, pairs_lost=40)  # fmt: skip
    again = RunTotals(pairs_ok=10, shards_committed=1, encoder_seconds=0.5)
    snapshots = [
        None,
        _progress(run=first),
        _progress(run=first),
        _progress(run=more),
        _progress(run=again, at=8.0),  # another run, of the shards that were left
    ]
    for before, now in pairwise(snapshots):
        assert now is not None
        metrics.count_progress(before, now)
    gained = {name: value - at_first[name] for name, value in counted().items()}
    assert gained == {"ok": 1010, "bad": 5, "truncated": 5, "lost": 40, "shards": 801,
                      "unread": 2, "image": 6, "encoders": 8.5}  # fmt: skip


def test_without_a_database_the_rest_is_told(app: FastAPI, http: httpx.Client) -> None:
    assert metric(http.base_url, "rhocache_registry_up") == 1
    registry: Registry = app.state.registry
    with registry.engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO gone"))
    told, _ = scrape(http)
    assert "rhocache_registry_up 0.0" in told
    assert "rhocache_build_info" in told
    assert "rhocache_queue_depth" not in told


def test_a_port_of_its_own_asks_for_no_key(tmp_path: Path) -> None:
    port = free_port()
    nowhere = "--ray-address=http://127.0.0.1:9"
    service = Service(tmp_path / "data", nowhere, f"--metrics-port={port}")
    service.start("/livez")
    try:
        Keys(open_database(Settings(data_dir=service.data_dir).registry_url)).create(
            "other", ["jobs:read"], None
        )
        assert httpx.get(f"{service.url}/metrics").status_code == 401
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()
        assert "rhocache_queue_depth 0.0" in answer.text
        command = [COMMAND, "serve", f"--port={free_port()}", f"--metrics-port={port}",
                   f"--data-dir={tmp_path / 'other'}"]  # fmt: skip
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in second.stderr
    finally:
        service.kill()


def test_requests_are_counted_by_route_and_status(http: httpx.Client) -> None:
    def seen(**labels: str) -> float:
        return metric(http.base_url, "rhocache_http_request_duration_seconds_count", **labels)

    fine = {"method": "GET", "route": "/v1/jobs/{job}", "status": "404"}
    before, strange = seen(**fine), seen(route="none")
    for job in ("job_1", "job_2"):
        assert http.get(f"/v1/jobs/{job}").status_code == 404
    assert seen(**fine) == before + 2
    assert http.get("/nowhere").status_code == 404
    assert seen(route="none") == strange + 1
    assert metric(http.base_url, "rhocache_build_info", version=version("rhocache")) == 1
