"""Deletes the files of caches that were given up, and gives up those that have expired."""

import logging

from rhocache_schemas.cache.deletion import delete_cache
from rhocache_schemas.errors import CacheBusy, CacheNotFound, RhocacheError
from rhocache_schemas.job.allowed_roots import check_allowed
from rhocache_service.jobs.deletion import check_unused
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.tables import DeletionRow

log = logging.getLogger(__name__)


class Deletions:
    def __init__(self, registry: Registry, leadership: Leadership, roots: list[str]) -> None:
        self._registry = registry
        self._leadership = leadership
        self._roots = roots
        self._told: dict[str, str] = {}  # cache -> its trouble, as it was logged last

    def delete_due(self) -> None:
        """Go on where it was cut short.

        Raises OperationalError where the registry can't be used.
        """
        if not self._leadership.hold():
            return
        for row in self._registry.caches.expired(self._registry.now()):
            try:
                check_unused(self._registry, row.uri)
            except CacheBusy as error:
                self._warn(row.id, f"{row.uri} has expired, and stays for now: {error}")
                continue
            log.info("%s has expired", row.uri)
            self._registry.caches.give_up(row.uri)
        for row in self._registry.caches.given_up():
            self._delete(row)

    def _delete(self, row: DeletionRow) -> None:
        try:
            check_allowed(row.uri, self._roots)
            found = delete_cache(row.uri)
        except CacheNotFound:
            log.info("%s is deleted already", row.uri)
        except RhocacheError as error:
            self._warn(row.id, f"{row.uri} can't be deleted now: {error}")
            return
        else:
            log.info("%s is deleted: %d files, %d bytes", row.uri, len(found.own), found.bytes)
            if found.foreign:
                log.warning("%s has files that are not the cache's: they stay", row.uri)
        self._told.pop(row.id, None)
        self._registry.caches.forget(row)

    def _warn(self, cache: str, trouble: str) -> None:
        """Log a cache's trouble, once as long as it stays the same."""
        if self._told.get(cache) != trouble:
            self._told[cache] = trouble
            log.warning(trouble)
