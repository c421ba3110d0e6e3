"""Every route with every kind of key and session: what each may see, do and be offered."""

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI

from rhocache_schemas.api import SCOPES, Scope
from rhocache_service.api.auth import COOKIE
from rhocache_service.app import create_app
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.sessions import Sessions

from ..conftest import routes_of, served, settings_without_ray
from ..made import SHARD, completed, make_cache, picture

OPEN = None  # to everyone, key or not
# What each route asks for. One that is not here fails the walk: let it be thought about.
NEEDED: dict[tuple[str, str], Scope | None] = {
    ("GET", "/v1/jobs"): "jobs:read",
    ("POST", "/v1/jobs"): "jobs:write",
    ("POST", "/v1/jobs:validate"): "jobs:write",
    ("GET", "/v1/jobs/{job}"): "jobs:read",
    ("DELETE", "/v1/jobs/{job}"): "jobs:write",
    ("POST", "/v1/jobs/{job}/cancel"): "jobs:write",
    ("POST", "/v1/jobs/{job}/retry"): "jobs:write",
    ("GET", "/v1/jobs/{job}/shards"): "jobs:read",
    ("GET", "/v1/jobs/{job}/errors"): "jobs:read",
    ("GET", "/v1/jobs/{job}/log"): "jobs:read",
    ("GET", "/v1/jobs/{job}/manifest"): "jobs:read",
    ("GET", "/v1/jobs/{job}/events"): "jobs:read",
    ("GET", "/v1/models"): "jobs:read",
    ("GET", "/v1/caches"): "caches:read",
    ("GET", "/v1/caches/{cache}"): "caches:read",
    ("PATCH", "/v1/caches/{cache}"): "caches:write",
    ("DELETE", "/v1/caches/{cache}"): "caches:write",
    ("GET", "/v1/caches/{cache}/pairs"): "caches:read",
    ("GET", "/v1/caches/{cache}/pictures"): "caches:read",
    ("GET", "/v1/caches/{cache}/files/{name:path}"): "caches:read",
    ("GET", "/metrics"): "metrics:read",
    ("GET", "/"): "jobs:read",
    ("GET", "/jobs/{job}"): "jobs:read",
    ("GET", "/jobs/{job}/now"): "jobs:read",
    ("GET", "/jobs/{job}/log"): "jobs:read",
    ("POST", "/jobs/{job}/cancel"): "jobs:write",
    ("POST", "/jobs/{job}/retry"): "jobs:write",
    ("GET", "/submit"): "jobs:write",
    ("POST", "/submit"): "jobs:write",
    ("GET", "/caches"): "caches:read",
    ("GET", "/caches/{cache}"): "caches:read",
    ("POST", "/caches/{cache}/keep"): "caches:write",
    ("POST", "/caches/{cache}/delete"): "caches:write",
    ("GET", "/caches/{cache}/compare"): "caches:read",
    ("GET", "/runs"): "caches:read",
    ("GET", "/run"): "caches:read",
    ("GET", "/run/pictures/{name}"): "caches:read",
    ("GET", "/favicon.ico"): OPEN,
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/problems/{slug}"): OPEN,
    ("GET", "/sign-in"): OPEN,
    ("POST", "/sign-in"): OPEN,
    ("POST", "/sign-out"): OPEN,
    ("GET", "/static"): OPEN,
    ("GET", "/static/swagger"): OPEN,
}
# A page and the API's route to the same data.
SAME = {
    "/": "/v1/jobs",
    "/jobs/{job}": "/v1/jobs/{job}",
    "/caches": "/v1/caches",
    "/caches/{cache}": "/v1/caches/{cache}/pairs",
}
SECRET = "a caption that is not everyone's"
UNKNOWN = "job_" + "0" * 24  # to be written to: what was made stays for the next to come


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    root = tmp_path_factory.mktemp("scopes")
    app = create_app(settings_without_ray(root))
    captions = {"one": SECRET, "two": "another", "lost": "a third"}
    row = completed(app.state.registry, make_cache(root / "made", captions, missing="lost"))
    (cache,) = app.state.registry.caches.newest(1)
    app.state.job, app.state.cache, app.state.run = row.id, cache.id, root / "run"
    (app.state.run / "heaviest").mkdir(parents=True)
    (app.state.run / "log.jsonl").write_text('{"step": 1}\n')
    (app.state.run / "heaviest" / "one.png").write_bytes(picture(1))
    app.state.job_page, app.state.cache_page = f"/jobs/{row.id}", f"/caches/{cache.id}"
    return app


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


@pytest.fixture(scope="module")
def able(app: FastAPI) -> list[tuple[Scope, dict[str, str]]]:
    """A key and a session of each scope, as headers."""
    keys: Keys = app.state.keys
    sessions: Sessions = app.state.sessions
    found: list[tuple[Scope, dict[str, str]]] = []
    for scope in SCOPES:
        row, key = keys.create(scope, [scope])
        found += [(scope, bearer(key)), (scope, cookie(sessions.begin(row)))]
    return found


@pytest.fixture(scope="module")
def unable(app: FastAPI, able: object) -> dict[str, dict[str, str]]:
    """What was an admin's and is not any more, or never was anyone's."""
    keys: Keys = app.state.keys
    sessions: Sessions = app.state.sessions
    row, key = keys.create("revoked", ["admin"])
    token = sessions.begin(row)
    keys.revoke(row.id)
    old, expired = keys.create("expired", ["admin"], expires_at=int(time.time()) - 1)
    left, raw = keys.create("signed out", ["admin"])
    ended = sessions.begin(left)
    sessions.end(ended)
    return {
        "nothing": {},
        "a key that was revoked": bearer(key),
        "a session of a key that was revoked": cookie(token),
        "an expired key": bearer(expired),
        "a session of an expired key": cookie(sessions.begin(old)),
        "a session that was ended": cookie(ended),
        "a key for a session": cookie(raw),
        "a session for a key": bearer(sessions.begin(left)),
        "nothing known": bearer(f"rhk_{'0' * 16}_{'A' * 43}"),
        "another scheme": {"Authorization": f"Basic {raw}"},
    }


def routes(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method, getattr(route, "path", "?"))
        for route in routes_of(app)
        for method in sorted({*(getattr(route, "methods", None) or {"GET"})} - {"HEAD"})
    ]


def ask(http: httpx.Client, app: FastAPI, method: str, path: str, headers: dict) -> httpx.Response:
    writes = method in ("POST", "PATCH", "DELETE")
    place = path.replace("{job}", UNKNOWN if writes else app.state.job)
    place = place.replace("{cache}", f"cache_{UNKNOWN}" if writes else app.state.cache)
    place = place.replace("{name:path}", "manifest.json")
    place = place.replace("{slug}", "forbidden")
    if place.startswith("/run") and place != "/runs":
        place = place.replace("{name}", "one.png") + f"?folder={app.state.run}"
    if place.endswith("/pictures"):
        place += f"?shard={SHARD}&row=0"
    form = {"data": {"key": "wrong"}} if path == "/sign-in" and method == "POST" else {}
    body = {} if form or method != "POST" else {"json": {}}
    return http.request(method, place, headers=headers, **form, **body)


def refused(answer: httpx.Response) -> str:
    """How an answer refuses, if it does: a page leads to where one signs in."""
    if answer.status_code == 303 and answer.headers["location"].startswith("/sign-in"):
        return "unauthenticated"
    return {401: "unauthenticated", 403: "forbidden"}.get(answer.status_code, "")


def test_every_route_is_thought_about(app: FastAPI) -> None:
    assert sorted(routes(app)) == sorted(NEEDED)
    for page, api in SAME.items():
        assert NEEDED["GET", page] == NEEDED["GET", api]


@pytest.mark.parametrize(("method", "path"), sorted(NEEDED))
def test_a_route_is_for_those_with_its_scope(
    http: httpx.Client,
    app: FastAPI,
    able: list[tuple[Scope, dict[str, str]]],
    unable: dict[str, dict[str, str]],
    method: str,
    path: str,
) -> None:
    needed = NEEDED[method, path]
    if needed is OPEN:
        given = {} if path == "/sign-out" else dict(able)["admin"]  # sessions are to last
        for headers in (unable["nothing"], given):
            answer = ask(http, app, method, path, headers)
            assert refused(answer) == "" or path in ("/sign-in", "/sign-out")
            assert SECRET not in answer.text
        return
    for what, headers in unable.items():
        answer = ask(http, app, method, path, headers)
        assert refused(answer) == "unauthenticated", what
        assert SECRET not in answer.text
    for scope, headers in able:
        answer = ask(http, app, method, path, headers)
        if scope in (needed, "admin"):
            assert refused(answer) == "", (scope, answer.text)
            assert answer.status_code == 200 or method != "GET", answer.text
        else:
            assert refused(answer) == "forbidden", scope
            assert needed in answer.text
            assert SECRET not in answer.text
        if method == "GET":
            assert ask(http, app, "HEAD", path, headers).status_code == answer.status_code


class Offers(HTMLParser):
    """The places that a page links to or shows, and the buttons with what they do."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.places: set[str] = set()  # the page's own parts left out
        self.actions: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("a", "img", "link", "script") or given.get("method") == "get":
            self.places |= {
                value
                for name in ("href", "src", "action")
                if (value := given.get(name)) and not value.startswith("#")
            }
        if tag == "form" and given.get("method") == "post":
            self.actions.add(str(given["action"]).rpartition("/")[2])
        if given.get("id"):
            self.actions.add(str(given["id"]))


PAGES = ("/", "/submit", "/caches", "/problems/forbidden", "/sign-in")


def test_a_page_offers_what_its_visitor_may_do(
    http: httpx.Client, app: FastAPI, able: list[tuple[Scope, dict[str, str]]]
) -> None:
    followed: set[str] = set()
    for scope, headers in able:
        for page in (*PAGES, app.state.job_page, app.state.cache_page):
            answer = http.get(page, headers=headers)
            found = Offers(answer.text)
            for place in found.places:
                target = urljoin(page, place)
                if target.startswith("/") and not target.startswith("/static"):
                    told = http.get(target, headers=headers)
                    assert refused(told) == "", (scope, page, target)
                    followed.add(re.sub("(job|cache)_[0-9a-f]+", "{}", target.partition("?")[0]))
            writes = scope in ("jobs:write", "admin")
            assert writes or not found.actions & {"cancel", "retry", "submit", "again"}
            deletes = scope in ("caches:write", "admin")
            assert deletes or not found.actions & {"keep", "delete"}
            if page == app.state.job_page and scope == "admin":
                assert {"cancel", "retry", "again"} <= found.actions
    assert {"/jobs/{}", "/caches/{}", "/v1/caches/{}/pictures", "/submit", "/docs"} <= followed


def test_a_session_leads_to_the_first_page_that_it_may_see(
    http: httpx.Client, app: FastAPI
) -> None:
    for scope, first in (
        ("admin", "/"), ("jobs:write", "/submit"), ("caches:read", "/caches"),
        ("metrics:read", "/docs"),
    ):  # fmt: skip
        _, key = app.state.keys.create("visitor", [scope])
        answer = httpx.post(f"{http.base_url}/sign-in", data={"key": key})
        assert (answer.status_code, answer.headers["location"]) == (303, first)


def test_without_keys_everything_is_open(tmp_path: Path) -> None:
    app = create_app(settings_without_ray(tmp_path))
    with served(app) as url, httpx.Client(base_url=url) as http:
        for path in ("/", "/submit", "/caches", "/v1/jobs", "/v1/caches", "/metrics"):
            assert http.get(path).status_code == 200
        page = http.get("/").text
    assert "Sign out" not in page
    assert "Sign in" not in page
