"""Sends webhooks, again and again until they are received: at least once, for about a day."""

import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from rhocache_schemas.errors import WebhookNotAllowed
from rhocache_schemas.network import is_loopback
from rhocache_service.jobs.webhooks import check_target, signed_headers
from rhocache_service.registry.deliveries import Deliveries
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.tables import DeliveryRow
from rhocache_service.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0  # for each part of an answer
_AT_ONCE = 8
_PAUSE_SECONDS = 5.0  # after the first try; four times as long after each other one
_CHANCE = random.SystemRandom()  # its own: the state of the module's is the program's
_TRIES = 9  # with the pauses between them 30 hours


class Webhooks:
    def __init__(self, deliveries: Deliveries, leadership: Leadership, settings: Settings) -> None:
        self._deliveries = deliveries
        self._leadership = leadership
        self._settings = settings

    def send_due(self) -> None:
        """Send those whose time has come, if this service leads.

        Raises OperationalError where the registry can't be used.
        """
        secret = self._settings.webhook_secret
        if secret is None or not self._leadership.hold():
            return
        if due := self._deliveries.due(_AT_ONCE):
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(partial(self._send, secret.get_secret_value()), due))

    def _send(self, secret: str, row: DeliveryRow) -> None:
        trouble = self._post(row, secret)
        if trouble is None:
            self._deliveries.end(row)
            return
        tries = row.tries + 1
        told = f"{row.job}: its webhook to {httpx.URL(row.url).host} was not received: {trouble}"
        if tries == _TRIES:
            log.warning("%s; it is given up", told)
            self._deliveries.end(row)
        else:
            pause = _PAUSE_SECONDS * 4**row.tries * _CHANCE.uniform(0.5, 1.5)
            log.warning("%s; try %d of %d in %.0f s", told, tries + 1, _TRIES, pause)
            self._deliveries.put_off(row, pause)

    def _post(self, row: DeliveryRow, secret: str) -> str | None:
        """What went wrong, told without the URL, whose path and query may be private."""
        headers = {"Content-Type": "application/json", "User-Agent": "rhocache"}
        headers |= signed_headers(row.id, int(time.time()), row.body, secret)
        try:
            check_target(row.url, self._settings)  # which may not be allowed any more
            with httpx.stream(
                "POST",
                row.url,
                content=row.body,
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                follow_redirects=False,  # they may lead elsewhere
                trust_env=not is_loopback(httpx.URL(row.url).host),  # no proxy leads there
            ) as answer:
                return None if answer.is_success else f"answered {answer.status_code}"
        except WebhookNotAllowed:
            return "its host is not allowed any more"
        except (httpx.HTTPError, OSError) as error:
            return type(error).__name__
