"""Browsers' sessions: opaque, ended on the server, and of no use to other pages."""

import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from rhocache_service.api.auth import COOKIE, TLS_COOKIE
from rhocache_service.app import create_app
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.sessions import Sessions
from rhocache_service.registry.tables import KeyRow, SessionRow

from ..conftest import served, settings_without_ray


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return create_app(settings_without_ray(tmp_path))


@pytest.fixture
def key(app: FastAPI) -> str:
    return app.state.keys.create("visitor", ["admin"])[1]


@pytest.fixture
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of our own for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def sign_in(http: httpx.Client, key: str, **headers: str) -> httpx.Response:
    return http.post("/sign-in", data={"key": key}, headers=headers)


def test_a_session_is_known_again_until_it_ends(database: Engine) -> None:
    keys, sessions = Keys(database), Sessions(database)
    row, _ = keys.create("visitor", ["jobs:read"])
    token, other = sessions.begin(row), sessions.begin(row)
    found = sessions.check(token)
    assert found is not None
    assert found[1].id == row.id
    for wrong in ("", token[:-1], f"{token}A", found[0], row.id, row.sha256):
        assert sessions.check(wrong) is None
    with database.connect() as connection:
        stored = str(connection.execute(select(*SessionRow.__table__.columns)).all())
    assert token not in stored
    sessions.end(token)
    assert sessions.check(token) is None
    assert sessions.check(other) is not None
    keys.revoke(row.id)
    assert sessions.check(other) is None


@pytest.mark.parametrize("table", [SessionRow, KeyRow])
def test_a_session_expires_by_itself_and_with_its_key(
    database: Engine, table: type[SessionRow] | type[KeyRow]
) -> None:
    keys, sessions = Keys(database), Sessions(database)
    row, _ = keys.create("visitor", ["jobs:read"])
    token = sessions.begin(row)
    with database.begin() as connection:
        connection.execute(update(table).values(expires_at=int(time.time())))
    assert sessions.check(token) is None
    sessions.begin(keys.create("another", ["jobs:read"])[0])
    with database.connect() as connection:
        kept = connection.execute(select(SessionRow.sha256)).all()
    assert len(kept) == (1 if table is SessionRow else 2), "what has expired is forgotten"


def test_the_cookie_is_not_the_key(http: httpx.Client, key: str) -> None:
    answer = sign_in(http, key)
    said = answer.headers["set-cookie"]
    token = answer.cookies[COOKIE]
    assert key[-43:] not in said
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(said.split("; "))
    assert len(token) == 43
    assert http.get("/v1/jobs").status_code == 200
    assert sign_in(http, key).cookies[COOKIE] != token
    old = {"Cookie": f"{COOKIE}={token}"}
    assert httpx.get(f"{http.base_url}/v1/jobs", headers=old).status_code == 401, "replaced"


def test_signing_out_ends_the_session_wherever_its_cookie_is(http: httpx.Client, key: str) -> None:
    stolen = {"Cookie": f"{COOKIE}={sign_in(http, key).cookies[COOKIE]}"}
    elsewhere = httpx.Client(base_url=http.base_url)
    sign_in(elsewhere, key)
    assert httpx.get(f"{http.base_url}/v1/jobs", headers=stolen).status_code == 200
    answer = http.post("/sign-out")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert not http.cookies
    refused = httpx.get(f"{http.base_url}/v1/jobs", headers=stolen)
    assert refused.status_code == 401
    assert "this session has ended" in refused.json()["detail"]
    assert elsewhere.get("/v1/jobs").status_code == 200, "another browser's session goes on"
    elsewhere.close()


def test_a_foreign_page_can_not_use_a_session(http: httpx.Client, key: str) -> None:
    sign_in(http, key)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1"):
        for place in ("/v1/jobs", "/v1/jobs:validate", "/sign-out"):
            answer = http.post(place, json={}, headers={"Origin": origin})
            assert answer.status_code == 403, (origin, place)
        assert sign_in(http, key, Origin=origin).status_code == 403, "nor begin one"
    own = {"Origin": str(http.base_url).rstrip("/")}
    assert http.post("/v1/jobs", json={}, headers=own).status_code == 422
    assert http.post("/v1/jobs", data={"a": "b"}, headers=own).status_code == 415


def test_over_tls_the_cookie_is_of_this_host_alone(
    app: FastAPI, key: str, certificate: tuple[Path, Path]
) -> None:
    cert, private = certificate
    secure = {"ssl_certfile": cert, "ssl_keyfile": private}
    trusting = ssl.create_default_context(cafile=cert)
    with served(app, **secure) as url, httpx.Client(base_url=url, verify=trusting) as http:
        answer = sign_in(http, key)
        said = set(answer.headers["set-cookie"].split("; "))
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=strict"} <= said
        assert not any(each.startswith("Domain") for each in said)
        token = answer.cookies[TLS_COOKIE]
        assert http.get("/v1/jobs").status_code == 200
        planted = {"Cookie": f"{COOKIE}={token}"}
        http.cookies.clear()
        assert http.get("/v1/jobs", headers=planted).status_code == 401
        given = {"Cookie": f"{TLS_COOKIE}={token}"}
        assert http.get("/v1/jobs", headers=given).status_code == 200
        left = http.post("/sign-out", headers=given).headers["set-cookie"]
        assert {"Secure", "Path=/", "Max-Age=0"} <= set(left.split("; "))
        assert http.get("/v1/jobs", headers=given).status_code == 401
