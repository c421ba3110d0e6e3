"""What goes on for long ends with the right to it, whichever service took that away."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.engine import Engine

from rhocache_schemas.job.spec import JobState
from rhocache_service.api.auth import COOKIE
from rhocache_service.app import create_app
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.sessions import Sessions
from rhocache_service.registry.tables import KeyRow, SessionRow

from ..conftest import served, settings_without_ray
from ..made import completed, make_cache

MEGABYTE = 1 << 20


@pytest.fixture
def app(tmp_path: Path, database: Engine) -> FastAPI:
    """With a registry that ``database`` reaches too, as another service would."""
    url = database.url.render_as_string(hide_password=False)
    return create_app(settings_without_ray(tmp_path, database_url=url))


@pytest.fixture
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


Ending = tuple[dict[str, str], Callable[[], object]]  # headers, and what ends the right to use them


def _revoked(database: Engine) -> Ending:
    row, key = Keys(database).create("visitor", ["admin"])
    return {"Authorization": f"Bearer {key}"}, lambda: Keys(database).revoke(row.id)


def _expired(database: Engine) -> Ending:
    headers, _ = _revoked(database)
    return headers, lambda: _expire(database, KeyRow)


def _session(database: Engine) -> tuple[dict[str, str], str, str]:
    row, _ = Keys(database).create("visitor", ["admin"])
    token = Sessions(database).begin(row)
    return {"Cookie": f"{COOKIE}={token}"}, token, row.id


def _signed_out(database: Engine) -> Ending:
    headers, token, _ = _session(database)
    return headers, lambda: Sessions(database).end(token)


def _session_expired(database: Engine) -> Ending:
    headers, *_ = _session(database)
    return headers, lambda: _expire(database, SessionRow)


def _sessions_key_revoked(database: Engine) -> Ending:
    headers, _, key = _session(database)
    return headers, lambda: Keys(database).revoke(key)


def _first_key(database: Engine) -> Ending:
    return {}, lambda: Keys(database).create("first", ["admin"])


def _expire(database: Engine, table: type[KeyRow] | type[SessionRow]) -> None:
    with database.begin() as connection:
        connection.execute(update(table).values(expires_at=1))


ways = pytest.mark.parametrize(
    "way",
    [_revoked, _expired, _signed_out, _session_expired, _sessions_key_revoked, _first_key],
)


def first_event(lines: Iterator[str]) -> list[str]:
    """Read it, and return its lines without its data, which has a time."""
    return [line for line in iter(lines.__next__, "") if not line.startswith("data:")]


@ways
def test_a_stream_and_a_wait_end(
    app: FastAPI, http: httpx.Client, database: Engine, tmp_path: Path, way: Callable
) -> None:
    registry = app.state.registry
    row = registry.add(make_cache(tmp_path / "made", {"one": "a caption"}))
    headers, end = way(database)
    place = f"/v1/jobs/{row.id}"
    with http.stream("GET", f"{place}/events", headers=headers) as stream:
        lines = stream.iter_lines()
        assert first_event(lines) == ["event: job.status", "id: 1"]
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(http.get, f"{place}?wait=60", headers=headers)
            end()
            answer = waiting.result()
            assert answer.status_code == 401, answer.text
            assert "validating" not in answer.text
        registry.advance(row, JobState.QUEUED, shards=1)  # which it must not be told any more
        rest = list(lines)
    assert not any(rest), "no event, no ping"
    assert http.get(f"{place}/events", headers=headers).status_code == 401


def test_another_keys_stream_goes_on(
    app: FastAPI, http: httpx.Client, database: Engine, tmp_path: Path
) -> None:
    row = app.state.registry.add(make_cache(tmp_path / "made", {"one": "a caption"}))
    headers, _ = _revoked(database)
    _, end = _revoked(database)
    place = f"/v1/jobs/{row.id}"
    with http.stream("GET", f"{place}/events", headers=headers) as stream:
        lines = stream.iter_lines()
        assert first_event(lines) == ["event: job.status", "id: 1"]
        end()
        app.state.registry.advance(row, JobState.FAILED)
        assert "id: 2" in list(lines)


@pytest.mark.parametrize("way", [_revoked, _signed_out])
def test_a_download_breaks_off(
    app: FastAPI, http: httpx.Client, database: Engine, tmp_path: Path, way: Callable
) -> None:
    spec = make_cache(tmp_path / "made", {"one": "a caption"})
    completed(app.state.registry, spec)
    (cache,) = app.state.registry.caches.newest(1)
    with Path(f"{spec.output}/shards/large.parquet").open("wb") as large:
        large.truncate(256 * MEGABYTE)  # more than lies between two processes
    headers, end = way(database)
    place = f"/v1/caches/{cache.id}/files/shards/large.parquet"
    with http.stream("GET", place, headers=headers) as stream:
        parts = stream.iter_bytes()
        next(parts)
        end()
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            list(parts)
