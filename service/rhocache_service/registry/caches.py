"""The caches that jobs have committed: where each lies, under an id, and until when.

Tables made from caches are kept beside them, for they expire and are deleted alike; they are not
listed.
"""

import hashlib
import time
from collections.abc import Sequence

from sqlalchemy import delete, or_, select, tuple_, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rhocache_schemas.errors import CacheNotFound
from rhocache_schemas.job.allowed_roots import true_place
from rhocache_service.registry.tables import CacheRow, DeletionRow

_ORDER = (CacheRow.committed_at, CacheRow.id)


def cache_id(output: str) -> str:
    """The same for every way to write a place."""
    return f"cache_{hashlib.sha256(repr(true_place(output)).encode()).hexdigest()[:24]}"


class Committed:
    """A cache is listed until it is deleted, whether or not its job is forgotten."""

    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine, expire_on_commit=False)

    def add(
        self,
        uri: str,
        fingerprint: str,
        job: str,
        at: int,
        expires_at: int | None = None,
        *,
        is_table: bool = False,
    ) -> None:
        """List a cache that ``job`` has committed, or committed anew, at a Unix second.

        A table has no fingerprint. What is listed already, and is to be kept for ever, stays so.
        """
        row = CacheRow(
            id=cache_id(uri),
            uri=uri,
            fingerprint=fingerprint,
            job=job,
            committed_at=at,
            is_table=is_table,
        )
        with self._session.begin() as session:
            known = session.get(CacheRow, row.id)
            if known is None or known.expires_at is not None:
                row.expires_at = expires_at
            session.merge(row)

    def keep_until(self, row: CacheRow, expires_at: int | None) -> CacheRow:
        """Set when a cache expires, in Unix seconds; None for never. Raises CacheNotFound."""
        change = update(CacheRow).where(CacheRow.id == row.id).values(expires_at=expires_at)
        with self._session.begin() as session:
            session.execute(change)
        return self.find(row.id)

    def expired(self, at: float) -> Sequence[CacheRow]:
        """The caches and tables that are to go by a Unix second, the first ones first."""
        query = select(CacheRow).where(CacheRow.expires_at <= at).order_by(CacheRow.expires_at)
        with self._session() as session:
            return session.scalars(query).all()

    def give_up(self, uri: str) -> None:
        """List a cache no more, and note that its files are to be deleted."""
        row = DeletionRow(id=cache_id(uri), uri=uri, asked_at=int(time.time()))
        with self._session.begin() as session:
            session.execute(delete(CacheRow).where(CacheRow.id == row.id))
            session.merge(row)

    def given_up(self) -> Sequence[DeletionRow]:
        """The caches whose files are still to be deleted, in the order in which they were asked."""
        query = select(DeletionRow).order_by(DeletionRow.asked_at, DeletionRow.id)
        with self._session() as session:
            return session.scalars(query).all()

    def is_given_up(self, uri: str) -> bool:
        with self._session() as session:
            return session.get(DeletionRow, cache_id(uri)) is not None

    def forget(self, row: DeletionRow) -> None:
        """The files of a cache are deleted."""
        with self._session.begin() as session:
            session.execute(delete(DeletionRow).where(DeletionRow.id == row.id))

    def newest(self, limit: int, after: CacheRow | None = None) -> list[CacheRow]:
        """Caches by their last commit backwards, from the one that comes behind ``after``."""
        query = select(CacheRow).where(~CacheRow.is_table)
        query = query.order_by(*(column.desc() for column in _ORDER)).limit(limit)
        if after is not None:
            query = query.where(tuple_(*_ORDER) < (after.committed_at, after.id))
        with self._session() as session:
            return list(session.scalars(query))

    def at(self, uri: str) -> CacheRow | None:
        """The cache or table at a place, if one is known there."""
        with self._session() as session:
            return session.get(CacheRow, cache_id(uri))

    def find(self, name: str) -> CacheRow:
        """Find a cache by its id, or by its fingerprint where only one has it.

        Raises CacheNotFound.
        """
        if "\0" in name:  # PostgreSQL refuses to look for it
            raise CacheNotFound(f"no cache {name!r}")
        named = or_(CacheRow.id == name, CacheRow.fingerprint == name)
        query = select(CacheRow).where(named, ~CacheRow.is_table)
        with self._session() as session:
            found = session.scalars(query.limit(20)).all()
        if len(found) > 1:
            ids = ", ".join(cache.id for cache in found)
            detail = f"several caches have this fingerprint; name one by its id: {ids}"
            raise CacheNotFound(detail)
        if not found:
            raise CacheNotFound(f"no job has committed a cache {name!r}")
        return found[0]
