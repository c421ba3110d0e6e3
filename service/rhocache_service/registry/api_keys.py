"""API keys: shown once, kept as a hash."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rhocache_schemas.api import SCOPES, Scope
from rhocache_schemas.errors import InvalidInput
from rhocache_service.registry.tables import KeyRow

LONGEST_NAME = 100  # characters
_KEY = re.compile(r"rhk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")  # 43: 256 random bits in base64


class Keys:
    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine, expire_on_commit=False)

    def create(
        self, name: str, scopes: Sequence[Scope], expires_at: int | None = None
    ) -> tuple[KeyRow, str]:
        """Make a key; give its record and the key itself, which can't be had again.

        Raises InvalidInput as check_new does.
        """
        check_new(name, scopes)
        id_, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = KeyRow(
            id=id_,
            name=name,
            sha256=hash_secret(secret),
            scopes=list(dict.fromkeys(scopes)),
            created_at=int(time.time()),
            expires_at=expires_at,
        )
        with self._session.begin() as session:
            session.add(row)
        return row, f"rhk_{id_}_{secret}"

    def list(self) -> Sequence[KeyRow]:
        """All keys, revoked ones too, newest first."""
        with self._session() as session:
            return session.scalars(select(KeyRow).order_by(KeyRow.created_at.desc())).all()

    def revoke(self, id_: str) -> None:
        """Raises InvalidInput where there is no such key, or it is revoked already."""
        valid = update(KeyRow).where(KeyRow.id == id_, KeyRow.revoked_at.is_(None))
        with self._session.begin() as session:
            found = session.execute(valid.values(revoked_at=int(time.time())))
        if not found.rowcount:  # pyright: ignore
            raise InvalidInput(f"there is no key {id_!r} that could be revoked")

    def exist(self) -> bool:
        """Whether there are keys, valid or not: revoking the last must not open the service."""
        with self._session() as session:
            return session.scalar(select(KeyRow.id).limit(1)) is not None

    def check(self, key: str) -> KeyRow | None:
        """The record of a key that may be used now."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        with self._session() as session:
            row = session.scalar(select(KeyRow).where(KeyRow.id == match[1], usable()))
        same = row is not None and hmac.compare_digest(row.sha256, hash_secret(match[2]))
        return row if same else None

    def still_usable(self, ids: Iterable[str]) -> set[str]:
        """Those of these keys that may be used now, by id."""
        with self._session() as session:
            return set(session.scalars(select(KeyRow.id).where(KeyRow.id.in_(ids), usable())))


def check_new(name: str, scopes: Sequence[str]) -> None:
    """Raise InvalidInput for a name that a key can't have, and for scopes that there are not."""
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise InvalidInput(f"name {name!r}: it must be 1 to {LONGEST_NAME} printable characters")
    if not scopes:
        raise InvalidInput(f"a key needs a scope: give one or more of {', '.join(SCOPES)}")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise InvalidInput(f"scope {', '.join(unknown)}: it must be of {', '.join(SCOPES)}")


def usable() -> ColumnElement[bool]:
    """The keys that may be used now: neither revoked nor expired."""
    expires = KeyRow.expires_at
    return KeyRow.revoked_at.is_(None) & or_(expires.is_(None), expires > time.time())


def hash_secret(secret: str) -> str:
    """Return the SHA-256, in hex, of a key's or a session's random part."""
    # No salt, no slow hash: there is nothing to guess in 256 random bits.
    return hashlib.sha256(secret.encode()).hexdigest()
