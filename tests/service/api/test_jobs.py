"""``/v1/jobs`` over real HTTP, with jobs moved by hand."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from caches import commit
from fastapi import FastAPI
from httpx_sse import connect_sse

from rhocache_schemas.cache.documents import Fault, Progress
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

from ..conftest import metric, served, settings_without_ray, wait_until
from ..made import make_cache

# As a service of the time before wrote it into its registry.
OLD_PROGRESS = {
    "format_version": "1.0", "phase": "encoding", "shards_done": 1, "shards_total": 2,
    "shards_failed": 1, "settled": 2, "pairs_done": 10, "pairs_failed": 2, "updated_at": 1.0,
    "pairs_per_second": 4.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def app(root: Path) -> FastAPI:
    limits = {"max_waiting_jobs": 10_000, "submits_per_minute": 10_000}
    return create_app(settings_without_ray(root, **limits))


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def registry(app: FastAPI) -> Registry:
    return app.state.registry


def spec(root: Path, **changes: Any) -> dict[str, Any]:
    model = {"model": f"local-dir:{root}/model"}
    return {"dataset": f"{root}/data", "output": f"{root}/cache", "reference": model} | changes


def submit(http: httpx.Client, root: Path, **changes: Any) -> str:
    return http.post("/v1/jobs", json=spec(root, **changes)).json()["id"]


def row_of(registry: Registry, job: str) -> JobRow:
    row = registry.get(job)
    assert row is not None
    return row


def test_the_same_request_makes_one_job(http: httpx.Client, root: Path) -> None:
    headers = {"Idempotency-Key": "one"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: http.post("/v1/jobs", json=spec(root), headers=headers), range(8))
        )
    assert {answer.status_code for answer in answers} <= {202, 409}
    taken = [answer for answer in answers if answer.status_code == 202]
    made = {answer.json()["id"] for answer in taken}
    assert len(made) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in taken) == 1
    again = http.post("/v1/jobs", json=spec(root), headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, made.pop())
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == f"/v1/jobs/{again.json()['id']}"
    other = http.post("/v1/jobs", json=spec(root, workers=2), headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


def test_a_refused_request_leaves_its_key_free(http: httpx.Client, root: Path) -> None:
    headers = {"Idempotency-Key": "refused"}
    assert http.post("/v1/jobs", json=spec(root, output="/etc"), headers=headers).status_code == 403
    assert http.post("/v1/jobs", json=spec(root), headers=headers).status_code == 202


def test_jobs_that_do_the_same_go_together(http: httpx.Client, root: Path) -> None:
    first = submit(http, root, output=f"{root}/same")
    (root / "alias").symlink_to(root)
    second = http.post("/v1/jobs", json=spec(root, output=f"{root}/alias/same/", workers=3)).json()
    assert second["follows"] == first
    third = http.post("/v1/jobs", json=spec(root, output=f"{root}/same", dtype="float32")).json()
    assert third["follows"] is None


def test_waiting_for_a_change(http: httpx.Client, root: Path, registry: Registry) -> None:
    job = submit(http, root)
    seen = http.get(f"/v1/jobs/{job}")
    tag = {"If-None-Match": seen.headers["etag"]}
    assert http.get(f"/v1/jobs/{job}", headers=tag).status_code == 304
    started = time.monotonic()
    assert http.get(f"/v1/jobs/{job}", params={"wait": 1}, headers=tag).status_code == 304
    assert time.monotonic() - started > 0.9
    mover = threading.Timer(0.5, lambda: registry.advance(row_of(registry, job), JobState.QUEUED))
    mover.start()
    changed = http.get(f"/v1/jobs/{job}", params={"wait": 30}, headers=tag)
    mover.join()
    assert (changed.status_code, changed.json()["status"]) == (200, "queued")
    assert changed.headers["etag"] != seen.headers["etag"]
    mover = threading.Timer(
        0.5, lambda: registry.advance(row_of(registry, job), JobState.IN_PROGRESS)
    )
    mover.start()
    assert http.get(f"/v1/jobs/{job}?wait=30").json()["status"] == "in_progress", "from now on"
    mover.join()
    assert http.get(f"/v1/jobs/{job}", params={"wait": 61}).status_code == 422


def test_events_as_they_happen_and_again_from_anywhere(
    http: httpx.Client, root: Path, registry: Registry
) -> None:
    job = submit(http, root)

    def move() -> None:
        row = registry.advance(row_of(registry, job), JobState.QUEUED, shards=2)
        row = registry.advance(row, JobState.IN_PROGRESS)
        registry.note(row, [("shard.committed", {"shard": "<é>\n0.tar", "rows": 3})])
        registry.note(row, [("shard.failed", {"shard": "1.tar", "code": "io_error"})])
        registry.note(row, [("job.progress", OLD_PROGRESS)])
        time.sleep(0.5)
        registry.advance(row, JobState.FAILED, Fault(code="job", detail="x"))

    mover = threading.Timer(0.3, move)
    mover.start()
    with connect_sse(http, "GET", f"/v1/jobs/{job}/events") as source:
        found = list(source.iter_sse())
    mover.join()
    assert [int(event.id) for event in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.event for event in found] == [
        "job.status", "job.status", "job.status", "shard.committed", "shard.failed", "job.progress",
        "job.status",
    ]  # fmt: skip
    data = [event.json() for event in found]
    assert all(each.pop("at") > 0 for each in data)
    committed = {
        "name": "<é>\n0.tar",
        "status": "committed",
        "rows": 3,
        "failed": 0,
    } | dict.fromkeys(("seconds", "encoder"))
    assert data[3:5] == [committed, {"name": "1.tar", "status": "failed", "code": "io_error"}]
    assert data[5]["request_counts"] == {"total": None, "completed": 8, "failed": 2}
    assert data[5]["shard_counts"] == {"total": 2, "committed": 1, "failed": 1}
    assert data[5]["progress"]["pairs_per_second"] == 4.0
    assert data[6] == {"status": "failed", "errors": [{"code": "job", "detail": "x"}]}
    resource = http.get(f"/v1/jobs/{job}").json()
    assert all(each.keys() - {"shards_in_progress"} <= resource.keys() for each in (data[5:]))
    headers = {"Last-Event-ID": "5"}
    with connect_sse(http, "GET", f"/v1/jobs/{job}/events", headers=headers) as source:
        assert [int(event.id) for event in source.iter_sse()] == [6, 7]
    with connect_sse(http, "GET", f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "9"}) as none:
        assert list(none.iter_sse()) == []


def test_a_stream_is_kept_alive_and_let_go(
    http: httpx.Client, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where nothing happens: pings, so that no proxy gives it up, and an end with its reader's."""
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.1)  # of 15 seconds

    def ended() -> float:
        name, route = "rhocache_http_request_duration_seconds_count", "/v1/jobs/{job}/events"
        return metric(http.base_url, name, route=route)

    with http.stream("GET", f"/v1/jobs/{submit(http, root)}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "no-store" in stream.headers["cache-control"]
        assert stream.headers["x-accel-buffering"] == "no"
        lines = stream.iter_lines()
        assert ": ping" in lines
        before = ended()
    wait_until(lambda: ended() > before, tmp_path)


def test_a_job_at_an_end_is_retried_and_forgotten(
    http: httpx.Client, root: Path, registry: Registry
) -> None:
    job = submit(http, root, output=f"{root}/retried", metadata={"a": "b"}, priority=7)
    for refused in (http.post(f"/v1/jobs/{job}/retry"), http.delete(f"/v1/jobs/{job}")):
        assert (refused.status_code, refused.json()["type"]) == (
            409,
            "/problems/job-state-conflict",
        )
    registry.advance(row_of(registry, job), JobState.FAILED, Fault(code="job", detail="x"))
    again = http.post(f"/v1/jobs/{job}/retry")
    assert again.status_code == 202
    found = again.json()
    assert (found["retries"], found["priority"], found["metadata"]) == (job, 7, {"a": "b"})
    assert found["spec"]["retry_failed"] is True
    assert http.get(again.headers["location"]).is_success
    assert http.delete(f"/v1/jobs/{job}").status_code == 204
    assert http.get(f"/v1/jobs/{job}").status_code == 404
    assert http.get(f"/v1/jobs/{job}/events").status_code == 404


def test_a_job_is_looked_at_before_it_is_run(http: httpx.Client, root: Path) -> None:
    (root / "looked").mkdir()
    for shard in ("0.tar", "1.tar"):
        (root / "looked" / shard).write_bytes(b"\0" * 1024)
    found = http.post("/v1/jobs:validate", json=spec(root, dataset=f"{root}/looked")).json()
    assert (found["shards"], found["shards_committed"], found["source_bytes"]) == (2, 0, 2048)
    assert (found["pairs"], found["predicted_seconds"]) == (None, None)
    absent = http.post("/v1/jobs:validate", json=spec(root, dataset=f"{root}/absent"))
    assert absent.json()["type"] == "/problems/not-found"
    outside = http.post("/v1/jobs:validate", json=spec(root, dataset="/etc"))
    assert outside.json()["type"] == "/problems/uri-not-allowed"


def test_caches_to_reuse_are_looked_at_when_a_job_is_submitted(
    http: httpx.Client, root: Path
) -> None:
    vectors, hashes = np.ones((1, 1, 1), np.float16), [bytes(16)]
    rows = ShardRows(["0"], ["ok"], vectors, vectors, np.ones(1, np.float32), hashes, hashes)
    other = str(commit(root / "other", {"0.tar": rows}))

    def answer(cache: str, **changes: Any) -> tuple[int, dict[str, Any]]:
        told = http.post("/v1/jobs", json=spec(root, reuse=[cache], **changes))
        return told.status_code, told.json()

    status, job = answer(other)
    assert (status, job["spec"]["reuse"]) == (202, [other])
    status, problem = answer(other, dtype="float32")
    assert (status, problem["type"]) == (409, "/problems/fingerprint-mismatch")
    assert 'dtype (cache: "float16", now: "float32")' in problem["detail"]
    assert answer(f"{root}/cache")[1]["detail"].startswith(f"{root}/cache is the output itself")
    assert answer(f"{root}/nowhere")[1]["type"] == "/problems/not-found"
    assert answer("/nowhere")[1]["type"] == "/problems/uri-not-allowed"


def test_several_references_are_looked_at_when_a_job_is_submitted(
    http: httpx.Client, root: Path
) -> None:
    asked = spec(
        root,
        dataset=make_cache(root / "several", {f"{number:03}": "a" for number in range(40)}).dataset,
        output=f"{root}/one",
        reference={"model": "ViT-B-32", "pretrained": "openai"},
    )

    def preview(*also: Any, **changes: Any) -> httpx.Response:
        body = asked | {"also": list(also)} | changes
        return http.post("/v1/jobs:validate", json=body)

    alone = preview(limit=10)
    both = preview(f"ViT-L-14,openai={root}/other", limit=10)
    assert (alone.status_code, both.status_code) == (200, 200), both.text
    low, low_of_both = (each.json()["predicted_bytes"]["low"] for each in (alone, both))
    assert low_of_both > 2 * low, "the embeddings of ViT-L-14 are longer"
    for also, code, told in (
        (f"ViT-B-32,openai={root}/other", 422, "is named twice"),
        (f"ViT-L-14,openai={root}/one/inner", 422, "one lies in the other"),
        ("ViT-L-14,openai=/elsewhere/other", 403, "/elsewhere/other"),
        (f"ViT-L-15,openai={root}/other", 422, "ViT-L-15"),
        ("ViT-L-14", 422, "of the form MODEL"),
    ):
        answer = preview(also)
        assert answer.status_code == code, answer.text
        assert told in answer.text
    answer = preview(f"ViT-L-14,openai={root}/other", reuse=[f"{root}/old"])
    assert (answer.status_code, "jobs of one reference" in answer.text) == (422, True)


def test_a_shard_is_in_progress_while_its_job_is(
    http: httpx.Client, root: Path, registry: Registry
) -> None:
    (root / "begun").mkdir()
    for shard in ("0.tar", "1.tar"):
        (root / "begun" / shard).write_bytes(b"\0" * 1024)
    job = submit(http, root, dataset=f"{root}/begun", output=f"{root}/begun-cache")

    def statuses() -> list[str]:
        return [shard["status"] for shard in http.get(f"/v1/jobs/{job}/shards").json()["data"]]

    assert statuses() == ["pending", "pending"]
    row = registry.advance(row_of(registry, job), JobState.QUEUED, shards=2)
    row = registry.advance(row, JobState.IN_PROGRESS)
    progress = Progress(phase="encoding", shards_in_progress=["1.tar"], updated_at=1.0)
    registry.note(row, progress=progress.model_dump(mode="json"))
    assert statuses() == ["pending", "in_progress"]
    registry.advance(row_of(registry, job), JobState.FAILED, Fault(code="job", detail="killed"))
    assert statuses() == ["pending", "pending"], "its progress is what a killed driver left"


def test_limits(tmp_path: Path) -> None:
    limits = {"max_waiting_jobs": 3, "submits_per_minute": 2, "max_body_bytes": 2000}
    app = create_app(settings_without_ray(tmp_path, **limits))
    with served(app) as url, httpx.Client(base_url=url) as http:
        for left in (1, 0):
            taken = http.post("/v1/jobs", json=spec(tmp_path))
            assert taken.status_code == 202
            policy = '"submissions";q=2;w=60, "waiting-jobs";q=3'
            assert taken.headers["ratelimit-policy"] == policy
            told = rf'"submissions";r={left};t=\d+, "waiting-jobs";r={left + 1}'
            assert re.fullmatch(told, taken.headers["ratelimit"])
        limited = http.post("/v1/jobs", json=spec(tmp_path))
        assert (limited.status_code, limited.json()["type"]) == (429, "/problems/rate-limited")
        assert 0 < int(limited.headers["retry-after"]) <= 60
        reset = f't={limited.headers["retry-after"]}, "waiting-jobs";r=1'
        assert limited.headers["ratelimit"] == f'"submissions";r=0;{reset}'
        assert limited.headers["ratelimit-policy"] == policy
        large = http.post("/v1/jobs", json=spec(tmp_path, metadata={"a": "b" * 3000}))
        assert (large.status_code, large.json()["type"]) == (413, "/problems/payload-too-large")


def test_a_full_queue(tmp_path: Path) -> None:
    app = create_app(settings_without_ray(tmp_path, max_waiting_jobs=2))
    with served(app) as url, httpx.Client(base_url=url) as http:
        ids = [submit(http, tmp_path) for _ in range(2)]
        full = http.post("/v1/jobs", json=spec(tmp_path))
        assert (full.status_code, full.json()["type"]) == (429, "/problems/queue-full")
        assert full.headers["retry-after"]
        assert full.headers["ratelimit"].endswith('"waiting-jobs";r=0')
        http.post(f"/v1/jobs/{ids[0]}/cancel")
        assert http.post("/v1/jobs", json=spec(tmp_path)).status_code == 202


def test_code_is_taken_from_where_the_service_says_alone(tmp_path: Path) -> None:
    """Which is nowhere by default, and not where a link leads out of."""
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "link.pt2").symlink_to(tmp_path / "mine.pt2")
    fields = {"cache": f"{tmp_path}/cache", "classes": f"{tmp_path}/c", "labels": f"{tmp_path}/l"}
    asked = {"kind": "classify", "output": f"{tmp_path}/out", **fields}

    def answers(**settings: Any) -> list[int]:
        with served(create_app(settings_without_ray(tmp_path, **settings))) as url:
            files = [f"{tmp_path}/{n}" for n in ("mine.pt2", "trusted/link.pt2", "trusted/c.pt2")]
            return [
                httpx.post(f"{url}/v1/jobs", json=asked | {"classifier": file}).status_code
                for file in files
            ]

    assert answers(code_root=[]) == [403, 403, 403]
    assert answers(code_root=[f"{tmp_path}/trusted"]) == [403, 403, 202]
