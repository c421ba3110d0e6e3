"""When a request that got no final answer is worth sending again."""

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

SECONDS = 120.0  # for a service that has answered before, or says when to come again
STRANGER_SECONDS = 2.0  # for one that never has: there may be none
POLL_SECONDS = 1.0  # between two looks at a job, where the first came back without news
_LONGEST_PAUSE = 30.0

_LATER = (429, 502, 503, 504)  # the service's own words, or a proxy's while it restarts


class Patience:
    """For one request, from its first failure on."""

    def __init__(self, seconds: float, *, known: bool) -> None:
        """``known``: the service has answered before."""
        self._seconds = seconds
        self._known = known
        self._failures = 0
        self._since = 0.0

    def pause(self, response: httpx.Response | None) -> float | None:
        """Seconds until another try; None where the response is final, or patience at its end.

        ``response`` is None where none came. Every request may be sent twice: those that make a
        job carry an Idempotency-Key.
        """
        if response is not None and not _is_passing(response):
            return None
        told = None if response is None else _retry_after(response)
        now = time.monotonic()
        if not self._failures:
            self._since = now
        is_there = self._known or told is not None
        limit = self._seconds if is_there else min(self._seconds, STRANGER_SECONDS)
        left = self._since + limit - now
        pause = max(min(5.0, 0.2 * 2**self._failures), min(_LONGEST_PAUSE, told or 0.0))
        self._failures += 1
        return min(pause, left) if left > 0 else None


def _is_passing(response: httpx.Response) -> bool:
    in_flight = response.status_code == 409 and b"idempotency-in-flight" in response.content
    return response.status_code in _LATER or in_flight


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds (RFC 9110, 10.2.3), by the server's own clock; None without any that can be read."""
    told = response.headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    until = _date(told)
    if until is None:
        return None
    now = _date(response.headers.get("Date", "")) or datetime.now(UTC)
    return (until - now).total_seconds()


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
