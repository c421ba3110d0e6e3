"""API keys: shown once, kept as a hash."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from typing import Literal, get_args

from sqlalchemy import select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rhocache_schemas.errors import InvalidInput
from rhocache_service.database import KeyRow

Scope = Literal["jobs:read", "jobs:write", "caches:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_KEY = re.compile(r"rhk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")  # 43: 256 random bits in base64


class Keys:
    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine, expire_on_commit=False)

    def create(
        self, name: str, scopes: Sequence[Scope], expires_at: int | None = None
    ) -> tuple[KeyRow, str]:
        """Make a key; give its record and the key itself, which can't be had again.

        Raises InvalidInput for scopes that there are not, and where there is none.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise InvalidInput(
                f"scope {', '.join(unknown) or 'missing'}: it must be of {', '.join(SCOPES)}"
            )
        id_, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = KeyRow(
            id=id_,
            name=name,
            sha256=_hash(secret),
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
            row = session.get(KeyRow, match[1])
        if row is None or not hmac.compare_digest(row.sha256, _hash(match[2])):
            return None
        expired = row.expires_at is not None and row.expires_at <= time.time()
        return None if expired or row.revoked_at is not None else row


def _hash(secret: str) -> str:
    # No salt, no slow hash: there is nothing to guess in 256 random bits.
    return hashlib.sha256(secret.encode()).hexdigest()
