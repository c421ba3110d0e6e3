"""One run at a time in a cache: a lease that its holder renews.

Caches lie on object stores and on disks of other machines, which offer no locks. The lease keeps
two runs from doing the same work; that the cache is right even where one sleeps, is taken for
dead, and wakes up later, rests on shard files that are the same whoever writes them, and on the
look at the lease before the index and the manifest are written.
"""

import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from typing import Self

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import LeaseHolder
from rhocache_schemas.errors import CacheBusy, StorageError

RENEW_SECONDS = 2.0
STALE_SECONDS = 20.0


class Lease:
    """A context manager around a run in ``cache``.

    Clocks of machines differ, so a lease tells no time: whoever wants it watches for
    ``stale_seconds`` whether it is renewed. Where its holder was a process of this machine that is
    dead, or the same job's run before this one, it is taken at once: a service starts a job's
    driver again only when it has given up the last one, which may take its time to die.

    Raises CacheBusy while another run holds it, and StorageError.
    """

    def __init__(
        self,
        cache: str,
        job: str | None,
        *,
        renew_seconds: float = RENEW_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self._cache = cache
        self._uri = layout.lease_file(cache)
        self._renew_seconds = renew_seconds
        self._stale_seconds = stale_seconds
        self._mine = LeaseHolder(
            run=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), job=job
        )
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        holder = self._read()
        if holder is not None and not self._succeeds(holder) and not _is_dead(holder):
            self._outwait(holder)
        storage.write_atomic(self._uri, self._mine.to_json())
        self.confirm()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        with suppress(CacheBusy, StorageError):  # the next run finds it stale
            self.confirm()
            storage.delete(self._uri)

    def confirm(self) -> None:
        """Look at the lease again, and raise CacheBusy when another run took it."""
        holder = self._read()
        if holder is None or holder.run != self._mine.run:
            raise self._busy(holder)

    def _keep(self) -> None:
        while not self._left.wait(self._renew_seconds):
            # Where the storage fails, it may be back before others think that this run is dead.
            with suppress(StorageError):
                try:
                    self.confirm()
                except CacheBusy:
                    return
                renewals = self._mine.renewals + 1
                self._mine = self._mine.model_copy(update={"renewals": renewals})
                storage.write_atomic(self._uri, self._mine.to_json())

    def _succeeds(self, holder: LeaseHolder) -> bool:
        return holder.job is not None and holder.job == self._mine.job

    def _outwait(self, holder: LeaseHolder) -> None:
        deadline = time.monotonic() + self._stale_seconds
        while time.monotonic() < deadline:
            time.sleep(self._stale_seconds / 20)
            now = self._read()
            if now is None:
                return
            if now != holder:
                raise self._busy(now)

    def _read(self) -> LeaseHolder | None:
        return LeaseHolder.read(self._uri) if storage.exists(self._uri) else None

    def _busy(self, holder: LeaseHolder | None) -> CacheBusy:
        if holder is None:
            return CacheBusy(f"{self._cache} was taken over by another run, which has ended since")
        job = f", job {holder.job}" if holder.job else ""
        return CacheBusy(
            f"another run is at work on {self._cache}: process {holder.pid} on {holder.host}{job}. "
            "Wait for it, or end it and run this again"
        )


def _is_dead(holder: LeaseHolder) -> bool:
    """Whether it was a process of this machine, and is no more."""
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False
