"""The caches that jobs have committed: where each lies, under an id."""

import hashlib

from sqlalchemy import or_, select, tuple_
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rhocache_schemas.errors import CacheNotFound
from rhocache_schemas.job.allowed_roots import true_place
from rhocache_service.registry.tables import CacheRow

_ORDER = (CacheRow.committed_at, CacheRow.id)


def cache_id(output: str) -> str:
    """The same for every way to write a place."""
    return f"cache_{hashlib.sha256(repr(true_place(output)).encode()).hexdigest()[:24]}"


class Committed:
    """A cache is listed as long as the registry lives, whether or not its job is forgotten."""

    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine, expire_on_commit=False)

    def add(self, uri: str, fingerprint: str, job: str, at: int) -> None:
        """List a cache that ``job`` has committed, or committed anew, at a Unix second."""
        row = CacheRow(id=cache_id(uri), uri=uri, fingerprint=fingerprint, job=job, committed_at=at)
        with self._session.begin() as session:
            session.merge(row)

    def newest(self, limit: int, after: CacheRow | None = None) -> list[CacheRow]:
        """Caches by their last commit backwards, from the one that comes behind ``after``."""
        query = select(CacheRow).order_by(*(column.desc() for column in _ORDER)).limit(limit)
        if after is not None:
            query = query.where(tuple_(*_ORDER) < (after.committed_at, after.id))
        with self._session() as session:
            return list(session.scalars(query))

    def find(self, name: str) -> CacheRow:
        """Find a cache by its id, or by its fingerprint where only one has it.

        Raises CacheNotFound.
        """
        if "\0" in name:  # PostgreSQL refuses to look for it
            raise CacheNotFound(f"no cache {name!r}")
        query = select(CacheRow).where(or_(CacheRow.id == name, CacheRow.fingerprint == name))
        with self._session() as session:
            found = session.scalars(query.limit(20)).all()
        if len(found) > 1:
            ids = ", ".join(cache.id for cache in found)
            detail = f"several caches have this fingerprint; name one by its id: {ids}"
            raise CacheNotFound(detail)
        if not found:
            raise CacheNotFound(f"no job has committed a cache {name!r}")
        return found[0]
