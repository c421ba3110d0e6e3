"""Sessions: what a browser holds in place of an API key. They end here, not in the browser."""

import secrets
import time
from collections.abc import Iterable

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rhocache_service.registry.api_keys import hash_secret, usable
from rhocache_service.registry.tables import KeyRow, SessionRow

LASTS_SECONDS = 12 * 3600


class Sessions:
    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine, expire_on_commit=False)

    def begin(self, key: KeyRow) -> str:
        """Begin a session of this key; give its token, which can't be had again."""
        token, now = secrets.token_urlsafe(32), int(time.time())
        row = SessionRow(sha256=hash_secret(token), api_key=key.id, expires_at=now + LASTS_SECONDS)
        with self._session.begin() as session:
            session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
            session.add(row)
        return token

    def check(self, token: str) -> tuple[str, KeyRow] | None:
        """The id of the session that has this token, and its key, if both may be used now."""
        query = select(SessionRow.sha256, KeyRow).where(_valid([hash_secret(token)]))
        with self._session() as session:
            found = session.execute(query).one_or_none()
        return None if found is None else (found[0], found[1])

    def still_valid(self, ids: Iterable[str]) -> set[str]:
        """Those of these sessions that may be used now, by id."""
        with self._session() as session:
            return set(session.scalars(select(SessionRow.sha256).where(_valid(ids))))

    def end(self, token: str) -> None:
        """End the session that has this token, where there is one."""
        with self._session.begin() as session:
            session.execute(delete(SessionRow).where(SessionRow.sha256 == hash_secret(token)))


def _valid(ids: Iterable[str]) -> ColumnElement[bool]:
    """Those of these sessions that have not ended, and neither has their key."""
    session = SessionRow.sha256.in_(ids) & (SessionRow.expires_at > time.time())
    return session & (SessionRow.api_key == KeyRow.id) & usable()
