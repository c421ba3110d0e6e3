"""Waiting for what happens to jobs, wherever it is written: by this service or another."""

import asyncio
from collections import Counter
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from rhocache_service.registry import Registry

SECONDS = 0.25  # between two looks at the registry
_AT_ONCE = 500  # jobs that are asked for in one query


class Changes:
    """One query now and then for everyone who waits, however many they are."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: Counter[str] = Counter()  # by job
        self._seen: dict[str, int] = {}  # job -> number of its newest event; -1 where it is gone
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

    async def wait(self, job: str, after: int, seconds: float) -> bool:
        """Wait until a job has an event above ``after`` or is gone.

        False if it takes longer, or the service ends.
        """
        self._waiting[job] += 1
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait_for(lambda: self.closed or self._is_news(job, after))
                return self._is_news(job, after)
        except TimeoutError:
            return False
        finally:
            self._waiting[job] -= 1
            if not self._waiting[job]:
                del self._waiting[job]
                self._seen.pop(job, None)

    def _is_news(self, job: str, after: int) -> bool:
        return self._seen.get(job, after) not in range(after + 1)

    async def _look(self, jobs: list[str]) -> None:
        found: dict[str, int] = {}
        for first in range(0, len(jobs), _AT_ONCE):
            part = jobs[first : first + _AT_ONCE]
            found |= await run_in_threadpool(self._registry.last_events, part)
        async with self._looked:
            self._seen = {job: found.get(job, -1) for job in jobs}
            self._looked.notify_all()
