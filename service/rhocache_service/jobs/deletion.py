"""Gives up caches, unless something speaks against it."""

from collections.abc import Sequence

from rhocache_schemas.errors import CacheBusy, JobStateConflict
from rhocache_schemas.job.allowed_roots import check_allowed, place_apart, true_place
from rhocache_schemas.job.paths import named_locations
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow


def give_up(registry: Registry, cache: str, roots: Sequence[str]) -> None:
    """Have a cache deleted: it is listed no more, and its files go then.

    Raises UriNotAllowed and CacheBusy.
    """
    _check(registry, cache, roots)
    registry.caches.give_up(cache)


def _check(registry: Registry, cache: str, roots: Sequence[str]) -> None:
    check_allowed(cache, roots)
    check_unused(registry, cache)


def delete_with_output(registry: Registry, row: JobRow, roots: Sequence[str]) -> None:
    """Forget a job that has ended, and have what it has written deleted, committed or not.

    Raises JobStateConflict for a job that has not ended, and where another job has committed the
    cache; and as give_up does.
    """
    registry.check_ended(row)
    for output in row.outputs:
        cache = registry.caches.at(output)
        if cache is not None and cache.job != row.id:
            raise JobStateConflict(
                f"job {cache.job} has committed {output} since: delete that itself, or with that "
                "job"
            )
        _check(registry, output, roots)
    for output in row.outputs:
        registry.caches.give_up(output)
    registry.delete(row)


def check_unused(registry: Registry, cache: str) -> None:
    """Raise CacheBusy where a job that has not ended writes or reads a cache."""
    place = true_place(cache)
    for row in registry.unfinished():
        if place in map(place_apart, named_locations(row.job_spec())):
            raise CacheBusy(
                f"job {row.id} is {row.status} and names {cache}: cancel it, or wait for its end"
            )
