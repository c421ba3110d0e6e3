"""Wakes long polls and streams when any replica records an event, or takes a right away."""

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from rhocache_service.registry.callers import Caller, Callers
from rhocache_service.registry.jobs import Registry

SECONDS = 0.25  # between two looks at the registry
_AT_ONCE = 500  # jobs that are asked for in one query


class Changes:
    """One query now and then for everyone who waits, however many they are."""

    def __init__(self, registry: Registry, callers: Callers) -> None:
        self._registry = registry
        self._callers = callers
        self._waiting: Counter[tuple[str, Caller]] = Counter()  # for a job, and who
        self._seen: dict[str, int] = {}  # job -> number of its newest event; -1 where it is gone
        self._gone: set[Caller] = set()
        self._looked = asyncio.Condition()
        self.closed = False

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            if self._waiting:
                with suppress(SQLAlchemyError):  # the next look may do better
                    await self._look(list(self._waiting))

    async def close(self) -> None:
        """Let everyone go who waits, as the service ends."""
        self.closed = True
        async with self._looked:
            self._looked.notify_all()

    async def wait(self, job: str, after: int, seconds: float, who: Caller) -> bool:
        """Wait until a job has an event above ``after`` or is gone.

        False if it takes longer, the service ends, or ``who`` may not be told any more.
        """
        self._waiting[job, who] += 1
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait_for(
                    lambda: self.closed or who in self._gone or self._is_news(job, after)
                )
                return who not in self._gone and self._is_news(job, after)
        except TimeoutError:
            return False
        finally:
            self._waiting[job, who] -= 1
            if not self._waiting[job, who]:
                del self._waiting[job, who]

    def _is_news(self, job: str, after: int) -> bool:
        return self._seen.get(job, after) not in range(after + 1)

    async def _look(self, waiting: Collection[tuple[str, Caller]]) -> None:
        jobs = list({job for job, _ in waiting})
        found: dict[str, int] = {}
        for first in range(0, len(jobs), _AT_ONCE):
            part = jobs[first : first + _AT_ONCE]
            found |= await to_thread.run_sync(self._registry.last_events, part)
        gone = await to_thread.run_sync(self._callers.gone, {who for _, who in waiting})
        async with self._looked:
            self._seen = {job: found.get(job, -1) for job in jobs}
            self._gone = gone
            self._looked.notify_all()
