"""The service behind a proxy, over real HTTP."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rhocache import Client
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.http.middleware.proxies import Proxies

from ...conftest import served, settings_without_ray
from ...made import completed, make_cache
from ...reverse_proxy import Proxy

PUBLIC = "https://rho.example.org"


def make_app(root: Path, **settings: Any) -> FastAPI:
    return create_app(settings_without_ray(root, **settings))


@pytest.fixture(scope="module")
def distrusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that knows of no proxy, only of the names upstream and rho.example.org."""
    names = {"allow_host": ["upstream", "rho.example.org"]}
    with (
        served(make_app(tmp_path_factory.mktemp("plain"), **names)) as url,
        httpx.Client(base_url=url) as http,
    ):
        yield http


@pytest.mark.parametrize("path", ["/livez", "/metrics"])
@pytest.mark.parametrize("host", ["10.1.2.3:8321", "[fd00::7]:8321", "evil.example", ""])
def test_a_kubelet_and_prometheus_ask_a_pod_by_its_address(
    distrusting: httpx.Client, path: str, host: str
) -> None:
    assert distrusting.get(path, headers={"host": host}).status_code == 200
    assert distrusting.head(path, headers={"host": host}).status_code == 200
    assert distrusting.get("/readyz", headers={"host": host}).status_code == 503  # has no Ray
    for other in ("/", "/v1/jobs", f"{path}/", f"/{path}", f"{path}/../v1/jobs", "/docs"):
        assert distrusting.get(other, headers={"host": host}).status_code == 403, other
    assert distrusting.post(path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": PUBLIC}, 422),  # a name of ours, though the proxy says another
        ({"origin": "https://else.example", "sec-fetch-site": "same-origin"}, 422),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example", "x-forwarded-host": "evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({}, 422),  # not a browser
    ],
)
def test_the_pages_own_requests_where_a_proxy_sends_its_upstreams_name(
    distrusting: httpx.Client, headers: dict[str, str], status: int
) -> None:
    answer = distrusting.post("/v1/jobs", headers={"host": "upstream"} | headers)
    assert answer.status_code == status, answer.text


def test_a_page_elsewhere_gets_nowhere_by_telling_of_a_proxy(distrusting: httpx.Client) -> None:
    """As it can: by DNS its name leads to the service, and a page may send such headers to it."""
    headers = {"host": "evil.example", "x-forwarded-host": "localhost", "forwarded": "host=rho"}
    assert distrusting.get("/v1/jobs", headers=headers).status_code == 403


def test_a_redirect_names_no_host(distrusting: httpx.Client) -> None:
    answer = distrusting.get("/v1/jobs/?limit=1", headers={"host": "upstream"})
    assert (answer.status_code, answer.headers["location"]) == (307, "/v1/jobs?limit=1")


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("trusting")
    app = make_app(root, allow_host=["rho.example.org"], trusted_proxy=["127.0.0.0/8"])
    with served(app) as url, httpx.Client(base_url=url) as http:
        yield http


@pytest.mark.parametrize(
    ("forwarded", "origin", "status"),
    [
        ({"host": "rho.example.org"}, PUBLIC, 422),
        ({"host": "rho.example.org:8443"}, f"{PUBLIC}:8443", 422),
        ({"host": "rho.example.org", "port": "8443"}, f"{PUBLIC}:8443", 422),
        ({"host": "rho.example.org", "port": "443", "proto": "https"}, PUBLIC, 422),
        ({"host": "rho.example.org", "port": "8443"}, PUBLIC, 403),
        ({"host": "evil.example"}, "https://evil.example", 403),
        # What a client sends itself is put before what the proxy says.
        ({"host": "rho.example.org, evil.example"}, PUBLIC, 403),
        ({"host": "evil.example, rho.example.org"}, PUBLIC, 422),
    ],
)
def test_a_trusted_proxy_tells_the_host(
    trusting: httpx.Client, forwarded: dict[str, str], origin: str, status: int
) -> None:
    headers = {f"x-forwarded-{name}": value for name, value in forwarded.items()}
    headers |= {"host": "upstream", "origin": origin}
    assert trusting.post("/v1/jobs", headers=headers).status_code == status


@pytest.mark.parametrize("prefix", ["/a/../b", "/a//b", "/v1", 'x"><script>', "/a b"])
def test_a_prefix_that_is_none_is_passed_over(trusting: httpx.Client, prefix: str) -> None:
    page = trusting.get("/", headers={"x-forwarded-prefix": prefix})
    assert 'href="/submit"' in page.text


@pytest.mark.parametrize(
    ("peer", "trusted", "client", "scheme"),
    [
        ("10.0.0.7", ["10.0.0.0/8"], "192.0.2.1", "https"),
        ("::ffff:10.0.0.7", ["10.0.0.0/8"], "192.0.2.1", "https"),  # listening on ::
        ("fd00::7", ["fd00::/8"], "192.0.2.1", "https"),
        ("11.0.0.7", ["10.0.0.0/8"], "11.0.0.7", "http"),
        ("127.0.0.1", [], "127.0.0.1", "http"),
        ("192.0.2.9", ["*"], "192.0.2.1", "https"),
        (None, ["10.0.0.0/8"], "", "http"),  # a socket of no address
    ],
)
def test_who_asks_is_taken_from_trusted_proxies_alone(
    peer: str | None, trusted: list[str], client: str, scheme: str
) -> None:
    """By ASGI, since a test's every client is 127.0.0.1."""
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, *_: object) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    told = {b"x-forwarded-for": b"192.0.2.1", b"x-forwarded-proto": b"https"}
    scope = {"type": "http", "scheme": "http", "path": "/", "headers": [*told.items()]}
    scope["client"] = None if peer is None else (peer, 1)
    asyncio.run(Proxies(app, trusted, "")(scope, *[None] * 2))  # pyright: ignore
    assert seen == [(client, scheme)]


@pytest.mark.parametrize("strip", [True, False])
def test_under_a_path_every_link_leads_on(tmp_path: Path, strip: bool) -> None:
    spec = make_cache(tmp_path / "made", {"one": "a caption", "two": "another"}, missing="two")
    app = make_app(tmp_path, root_path="/tools/rho")
    row = completed(app.state.registry, spec)
    proxy = Proxy("", "/tools/rho", strip)
    with served(app) as proxy.upstream, proxy.running() as url:
        with Client(url) as client:
            job = client.jobs.submit(spec)
            assert [each.id for each in client.jobs.list().data] == [job.id, row.id]
            assert list(client.jobs.watch(row.id))[-1].status == JobState.COMPLETED
            assert list(client.jobs.events(row.id))[-1].data.status == JobState.COMPLETED
            (cache,) = client.caches.list().data
            assert b"".join(client.caches.download(cache.id, "index.parquet"))
        with httpx.Client(base_url=url.removesuffix("/tools/rho")) as http:
            answer = http.post("/tools/rho/v1/jobs", json=spec.model_dump(mode="json"))
            assert http.get(answer.headers["location"]).json()["id"] == answer.json()["id"]
            problem = http.get("/tools/rho/v1/jobs/none").json()
            assert problem["instance"] == "/tools/rho/v1/jobs/none"
            assert http.get(problem["type"]).status_code == 200
            static = http.get("/tools/rho/static/nothing").json()
            assert http.get(static["type"]).status_code == 200
            document = http.get("/tools/rho/openapi.json").json()
            assert document["servers"] == [{"url": "/tools/rho"}]
            assert http.get("/tools/rho/jobs/").status_code == 404
            moved = http.get("/tools/rho/caches/")
            assert http.get(moved.headers["location"]).status_code == 200
            _follow_links(http, "/tools/rho")
        assert httpx.get(f"{proxy.upstream}/livez").status_code == 200  # a kubelet has no proxy


def _follow_links(http: httpx.Client, start: str) -> None:
    """Ask for everything that the pages name, from one page on."""
    todo, done = [start], set[str]()
    while todo:
        place = todo.pop()
        if place in done:
            continue
        done.add(place)
        answer = http.get(place)
        assert answer.status_code == 200, place
        if answer.headers["content-type"].startswith("text/html"):
            read = re.sub('<form method="post"[^>]*>', "", answer.text)
            found = re.findall(r'\s(?:href|src|action)="([^"#]+)"', read)
            todo += [each.replace("&amp;", "&") for each in found]
    assert len(done) > 15
    assert all(each.startswith(start) for each in done)


def test_signing_in_under_a_path(tmp_path: Path) -> None:
    app = make_app(tmp_path, root_path="/rho", trusted_proxy=["127.0.0.1"])
    _, key = app.state.keys.create("visitor", ["admin"])
    proxy = Proxy("", "/rho", headers={"X-Forwarded-Proto": "https"})
    with served(app) as proxy.upstream, proxy.running() as url:
        asked = httpx.get(f"{url}/caches")
        assert asked.headers["location"] == "/rho/sign-in?to=/rho/caches"
        signed = httpx.post(f"{url}/sign-in", data={"key": key, "to": "//evil.example"})
        assert signed.headers["location"] == "/rho/"
        # A cookie of this name must be the whole host's.
        assert re.match(r"__host-.*; path=/;.* secure", signed.headers["set-cookie"].lower())
        out = httpx.post(f"{url}/sign-out")
        assert out.headers["location"] == "/rho/sign-in"
        assert "; path=/;" in out.headers["set-cookie"].lower()
    with served(app) as url:
        signed = httpx.post(f"{url}/sign-in", data={"key": key})
        assert "; path=/rho;" in signed.headers["set-cookie"].lower()
