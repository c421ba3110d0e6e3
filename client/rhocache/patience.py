"""Retries requests that got no final answer: which, when, and for how long."""

import math
import time
from calendar import timegm
from email.utils import parsedate
from http import HTTPStatus
from typing import Self, cast

import httpx
from httpx_retries import Retry

SECONDS = 120.0  # for a service that has answered before, or says when to come again
STRANGER_SECONDS = 2.0  # for one that never has: there may be none
POLL_SECONDS = 1.0  # between two looks at a job, where the first came back without news
_LONGEST_PAUSE = 30.0


class InFlight(httpx.RequestError):
    """The same request is being answered already, and its answer will be this one's too."""


class Patience(Retry):
    """For one request, from its first failure on. httpx-retries sends it again.

    Every request may be sent twice: those that make a job carry an Idempotency-Key.
    """

    def __init__(self, request: httpx.Request, seconds: float, *, known: bool) -> None:
        """``known``: the service has answered before."""
        super().__init__(
            allowed_methods=[request.method],
            retry_on_exceptions=[httpx.RequestError],
            validate_response=_check_in_flight,
        )
        self._request = request
        self._seconds = seconds
        self._known = known
        self._since = math.inf  # by the steady clock: when it failed first
        self._date: tuple[int, ...] | None = None  # that the last answer told

    def is_exhausted(self) -> bool:
        return self._left() <= 0

    def _left(self) -> float:
        seconds = self._seconds if self._known else min(self._seconds, STRANGER_SECONDS)
        return seconds - max(0.0, time.monotonic() - self._since)

    def increment(self) -> Self:
        """Count a failure. The request loses its wait: a proxy may not have had the time for it."""
        self.attempts_made += 1
        self._since = min(self._since, time.monotonic())
        self._request.url = self._request.url.copy_remove_param("wait")
        return self

    def sleep(self, response: httpx.Response | Exception) -> None:
        self._hear(response)
        super().sleep(response)

    async def asleep(self, response: httpx.Response | Exception) -> None:
        self._hear(response)
        await super().asleep(response)

    def _hear(self, response: httpx.Response | Exception) -> None:
        if isinstance(response, httpx.Response):
            self._known |= "Retry-After" in response.headers
            self._date = parsedate(response.headers.get("Date", ""))
        self.max_backoff_wait = min(_LONGEST_PAUSE, max(0.0, self._left()))

    def parse_retry_after(self, retry_after: str) -> float:
        """Return the seconds until then (RFC 9110, 10.2.3), by the server's own clock if it tells
        that; 0, for which the usual pause is made, where they can't be read."""
        until = parsedate(retry_after)
        try:
            if until and self._date:
                return float(timegm(until) - timegm(self._date))
            return super().parse_retry_after(retry_after)
        except (ValueError, OverflowError):
            return 0.0

    def backoff_strategy(self) -> float:
        doublings = min(cast("int", self.attempts_made), 6)  # pyright: ignore
        return min(5.0, 0.1 * 2**doublings, self.max_backoff_wait)


def _check_in_flight(response: httpx.Response) -> None:
    conflict = response.status_code == HTTPStatus.CONFLICT
    if conflict and b"idempotency-in-flight" in response.content:
        raise InFlight("the same request is being answered")
