"""What HTTP asks of every route: HEAD, OPTIONS, Allow, and conditional requests."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

from ..conftest import served, settings_without_ray
from ..made import SHARD, completed, make_cache

PAGES = ["/", "/submit", "/caches", "/docs", "/problems/internal", "/jobs/{job}", "/caches/{cache}"]
OTHERS = [
    "/openapi.json", "/static/page.css", "/v1/jobs/", "/v1/nothing", "/static/nothing",
    "/v1/jobs/none", "/v1/jobs?limit=x", "/v1/jobs:validate",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http")


@pytest.fixture(scope="module")
def registry_and_http(root: Path) -> Iterator[tuple[Registry, httpx.Client]]:
    app = create_app(settings_without_ray(root))
    with served(app) as url, httpx.Client(base_url=url) as http:
        yield app.state.registry, http


@pytest.fixture
def http(registry_and_http: tuple[Registry, httpx.Client]) -> httpx.Client:
    return registry_and_http[1]


@pytest.fixture(scope="module")
def row(registry_and_http: tuple[Registry, httpx.Client], root: Path) -> JobRow:
    spec = make_cache(root / "made", {f"{each:04}": "a caption" for each in range(9)})
    return completed(registry_and_http[0], spec)


def told(answer: httpx.Response) -> dict[str, str]:
    """Headers, without what differs from request to request."""
    return {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")}


def test_head_is_get_without_a_body(http: httpx.Client, row: JobRow) -> None:
    cache = http.get("/v1/caches").json()["data"][0]["id"]
    documented = http.get("/openapi.json").json()["paths"]
    paths = [path for path, operations in documented.items() if "get" in operations]
    places = [
        path.format(job=row.id, cache=cache, name="manifest.json")
        + (f"?shard={SHARD}&row=0" if path.endswith("/pictures") else "")
        for path in (*paths, *PAGES, *OTHERS)
        if path not in ("/metrics", "/")
    ]
    assert len(places) > 20
    for place in places:
        full, head = http.get(place), http.head(place)
        assert (head.status_code, head.content) == (full.status_code, b""), place
        assert told(head) == told(full), place
    assert http.head("/metrics").status_code == 200
    assert http.get("/v1/jobs").status_code == 200  # on the same connection


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=0-9", 206), ("bytes=-5", 206), ("bytes=7-", 206), ("bytes=99999-", 416)],
)
def test_head_of_a_part(http: httpx.Client, row: JobRow, asked: str, status: int) -> None:
    cache = http.get("/v1/caches").json()["data"][0]["id"]
    for place in (f"/v1/caches/{cache}/files/index.parquet", "/static/page.css"):
        full = http.get(place, headers={"range": asked})
        head = http.head(place, headers={"range": asked})
        assert (full.status_code, head.status_code, head.content) == (status, status, b"")
        assert told(head) == told(full)
        assert int(head.headers["content-length"]) == len(full.content)


def test_head_of_a_stream_does_not_wait_for_its_end(
    http: httpx.Client, registry_and_http: tuple[Registry, httpx.Client], row: JobRow
) -> None:
    unfinished = registry_and_http[0].add(row.job_spec())
    head = http.head(f"/v1/jobs/{unfinished.id}/events")
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")


def test_a_range_with_a_number_of_any_length(http: httpx.Client, row: JobRow) -> None:
    cache = http.get("/v1/caches").json()["data"][0]["id"]
    ranges = {"range": f"bytes={'9' * 5000}-"}
    assert http.get(f"/v1/caches/{cache}/files/manifest.json", headers=ranges).status_code == 200


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, HEAD, OPTIONS, POST"),
        ("/v1/jobs/job_0", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/jobs/job_0/cancel", "OPTIONS, POST"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/static/page.css", "GET, HEAD, OPTIONS"),
        ("/sign-in", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_what_is_allowed_is_told(http: httpx.Client, path: str, allowed: str) -> None:
    refused, asked = http.put(path), http.options(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allowed, b"")
    if "GET" not in allowed:
        assert http.head(path).status_code == 405
    assert http.options("/v1/nothing").status_code == 404


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("{tag}", True),
        ("W/{tag}", True),  # from a proxy that compresses
        ('"x", W/{tag} ,"y"', True),
        ('"a,b",{tag}', True),
        ("*", True),
        ('"x"', False),
        ('W/"x"', False),
        ("{bare}", False),
        ("", False),
    ],
)
def test_tags_are_compared_weakly(
    http: httpx.Client, row: JobRow, header: str, known: bool
) -> None:
    place = f"/v1/jobs/{row.id}"
    tag = http.get(place).headers["etag"]
    sent = header.format(tag=tag, bare=tag.strip('"'))
    answer = http.get(place, headers={"if-none-match": sent})
    assert answer.status_code == (304 if known else 200)
    assert answer.headers["etag"] == tag
    assert (answer.content == b"") is known
    lines = [("if-none-match", '"x"'), ("if-none-match", sent)]
    assert (http.get(place, headers=lines).status_code == 304) is (known and sent != "*")


def test_a_weak_tag_waits_too(
    http: httpx.Client, registry_and_http: tuple[Registry, httpx.Client], row: JobRow
) -> None:
    """It is answered by what happens, not at once."""
    registry = registry_and_http[0]
    unfinished = registry.add(row.job_spec())
    place = f"/v1/jobs/{unfinished.id}"
    weak = {"if-none-match": f"W/{http.get(place).headers['etag']}"}
    assert http.get(f"{place}?wait=1", headers=weak).status_code == 304
    registry.advance(unfinished, JobState.QUEUED)
    assert http.get(f"{place}?wait=60", headers=weak).json()["status"] == "queued"
