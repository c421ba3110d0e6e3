"""Webhooks to a real receiver, which fails at first, from a service that is killed meanwhile."""

import http.server
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any, Self

import httpx
import pytest
from sqlalchemy import Row, select, update
from sqlalchemy.engine import Engine
from standardwebhooks import Webhook, WebhookVerificationError

from rhocache import Client
from rhocache_schemas.errors import InvalidInput, ServiceError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.deliveries import Deliveries
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.tables import DeliveryRow, JobRow, open_database
from rhocache_service.scheduling import webhooks
from rhocache_service.scheduling.webhooks import Webhooks
from rhocache_service.settings import Settings

from ..conftest import WEBHOOK_SECRET, Service, served, settings_without_ray, wait_until


class Receiver:
    """An HTTP server that answers with these statuses in turn, and then with 204."""

    def __init__(self, *statuses: int) -> None:
        self.received = received = Queue[tuple[str, dict[str, str], bytes]]()
        left = list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(left.pop(0) if left else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                received.put((self.path, {k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, format: str, *arguments: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/hooks?of=mine"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def fields(root: Path, webhook: str, **more: Any) -> dict[str, Any]:
    reference = {"model": f"local-dir:{root}/model"}
    places = {"dataset": f"{root}/data", "output": f"{root}/cache", "reference": reference}
    return places | {"webhook": webhook, "metadata": {"owner": "vision"}} | more


def sender_of(database: Engine, root: Path, host: str = "127.0.0.1") -> Webhooks:
    settings = settings_without_ray(root, webhook_host=[host])
    return Webhooks(Deliveries(database), Leadership(database), settings)


@pytest.fixture
def sender(database: Engine, tmp_path: Path) -> Webhooks:
    return sender_of(database, tmp_path)


def end(database: Engine, url: str | None, state: JobState = JobState.FAILED) -> JobRow:
    places = {"dataset": "/d", "output": "/o", "reference": {"model": "local-dir:/m"}}
    spec = ScoreSpec.model_validate(places | {"metadata": {"owner": "é"}})
    registry = Registry(database)
    return registry.advance(registry.add(spec, webhook=url), state)


def left(database: Engine) -> list[Row[Any]]:
    with database.connect() as connection:
        return list(connection.execute(select(DeliveryRow.__table__)))


def make_due(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(update(DeliveryRow).values(due_at=0.0))


def test_nothing_is_lost_when_the_service_is_killed(tmp_path: Path) -> None:
    with Receiver(500, 302) as receiver:
        environment = {
            "RHOCACHE_WEBHOOK_HOST": receiver.host,
            "RHOCACHE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        flags = ("--ray-address=http://127.0.0.1:9", f"--allow-root={tmp_path}")
        service = Service(tmp_path / "data", *flags, environment=environment)
        service.start(ready="/livez")
        with Client(service.url) as client:
            job = client.jobs.submit(**fields(tmp_path, receiver.url))
            client.jobs.cancel(job.id)
        tries = [receiver.received.get()]
        database = open_database(Settings(data_dir=service.data_dir).registry_url)
        for failed in (1, 2):
            wait_until(
                lambda failed=failed: [row.tries for row in left(database)] == [failed], service.log
            )
            service.kill()
            make_due(database)
            service.start(ready="/livez")
            tries.append(receiver.received.get())
        wait_until(lambda: not left(database), service.log)
        service.kill()
        database.dispose()
    assert receiver.received.empty()
    assert {path for path, _, _ in tries} == {"/hooks?of=mine"}
    assert len({headers["webhook-id"] for _, headers, _ in tries}) == 1
    for _, headers, body in tries:
        found = Webhook(WEBHOOK_SECRET).verify(body, headers)
        assert found["type"] == "job.cancelled"
        data = {"id": job.id, "object": "job", "status": "cancelled"}
        assert found["data"] == data | {"metadata": {"owner": "vision"}}
        with pytest.raises(WebhookVerificationError):
            Webhook(WEBHOOK_SECRET).verify(body + b" ", headers)
    told = service.log.read_text()
    assert "answered 500" in told
    assert "answered 302" in told
    assert "of=mine" not in told
    assert WEBHOOK_SECRET not in told


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.EXPIRED])
def test_each_end_is_told(database: Engine, sender: Webhooks, state: JobState) -> None:
    with Receiver() as receiver:
        row = end(database, receiver.url, state)
        end(database, None)
        sender.send_due()
        _, headers, body = receiver.received.get()
        sender.send_due()
    assert receiver.received.empty()
    assert left(database) == []
    found = Webhook(WEBHOOK_SECRET).verify(body, headers)
    assert (found["type"], found["data"]["id"]) == (f"job.{state}", row.id)
    assert found["data"]["metadata"] == {"owner": "é"}


def test_of_two_services_the_leader_sends(database: Engine, tmp_path: Path) -> None:
    leader, other = sender_of(database, tmp_path), sender_of(database, tmp_path)
    leader.send_due()
    with Receiver() as receiver:
        end(database, receiver.url)
        other.send_due()
        assert receiver.received.empty()
        leader.send_due()
        assert receiver.received.qsize() == 1


def test_pauses_grow_until_it_is_given_up(
    database: Engine, sender: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    put_off = Deliveries.put_off

    def note(self: Deliveries, row: DeliveryRow, seconds: float) -> None:
        pauses.append(seconds)
        put_off(self, row, seconds)

    monkeypatch.setattr(Deliveries, "put_off", note)
    chance = random.getstate()
    end(database, "http://127.0.0.1:9/")  # nobody listens
    sender.send_due()
    sender.send_due()
    assert len(pauses) == 1, "it is not due yet"
    while left(database):
        make_due(database)
        sender.send_due()
    assert len(pauses) == webhooks._TRIES - 1
    assert all(2.5 * 4**n <= pause <= 7.5 * 4**n for n, pause in enumerate(pauses))
    assert random.getstate() == chance, "another thread of the program may draw in between"


def test_a_host_that_is_not_allowed_any_more(database: Engine, tmp_path: Path) -> None:
    with Receiver() as receiver:
        end(database, receiver.url)
        sender_of(database, tmp_path, "hooks.example.org").send_due()
        assert receiver.received.empty()
    assert [row.tries for row in left(database)] == [1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("hooks")
    hosts = ["hooks.example.org", "*.example.com:8443", "127.0.0.1:81"]
    with served(create_app(settings_without_ray(root, webhook_host=hosts))) as url:
        yield url, root


@pytest.mark.parametrize(
    "webhook",
    ["https://hooks.example.org", "https://HOOKS.example.org/a?b#c", "http://127.0.0.1:81/x",
     "https://a.example.com:8443/"],
)  # fmt: skip
def test_where_webhooks_may_go(place: tuple[str, Path], webhook: str) -> None:
    url, root = place
    taken = httpx.post(f"{url}/v1/jobs", json=fields(root, webhook))
    assert (taken.status_code, taken.json()["webhook"]) == (202, webhook)


@pytest.mark.parametrize(
    "webhook",
    ["", "x", "hooks.example.org", "http://hooks.example.org/", "ftp://hooks.example.org/",
     "https://example.org", "https://hooks.example.org.evil.net/", "https://127.0.0.1/",
     "https://hooks.example.org@evil.net/", "https://u:hush@hooks.example.org/", "https:///x",
     "https://evil.net/https://hooks.example.org", "https://evil.net\\@hooks.example.org/",
     "https://a.example.com/", "http://127.0.0.1:82/", "http://[::1]:81/", "https://x\n.net",
     "file:///etc/passwd", "https://hooks.example.org:port/"],
)  # fmt: skip
def test_where_webhooks_may_not_go(place: tuple[str, Path], webhook: str) -> None:
    url, root = place
    refused = httpx.post(f"{url}/v1/jobs", json=fields(root, webhook))
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/webhook-not-allowed")
    assert "hush" not in refused.text


def test_a_target_is_refused_by_name(place: tuple[str, Path]) -> None:
    url, root = place
    with Client(url) as client, pytest.raises(ServiceError, match=r"not go to 'evil.net'; allowed"):
        client.jobs.submit(**fields(root, "https://evil.net/x"))


def test_another_try_is_told_of_as_well(place: tuple[str, Path]) -> None:
    url, root = place
    webhook = "https://hooks.example.org/"
    with Client(url) as client:
        job = client.jobs.submit(**fields(root, webhook, output=f"{root}/other"))
        client.jobs.cancel(job.id)
        *_, ended = client.jobs.watch(job.id)
        assert ended.status == "cancelled"
        assert client.jobs.retry(job.id).webhook == webhook


@pytest.mark.parametrize("secret", ["hush", "whsec_hush", WEBHOOK_SECRET[6:]])
def test_a_secret_that_is_none_is_not_told(secret: str) -> None:
    with pytest.raises(InvalidInput, match="--webhook-secret: it should be whsec_") as told:
        Settings.load(webhook_secret=secret)
    assert secret not in str(told.value)


def test_nothing_is_sent_unsigned() -> None:
    with pytest.raises(InvalidInput, match="RHOCACHE_WEBHOOK_SECRET has nothing"):
        Settings(webhook_host=["hooks.example.org"]).check(has_keys=True)
