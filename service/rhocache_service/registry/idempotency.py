"""Idempotency-Key: a request that is sent again is answered again, and done once."""

import hashlib
from dataclasses import dataclass

from sqlalchemy import delete, insert, or_, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker

from rhocache_schemas.errors import IdempotencyKeyReused, RequestInFlight
from rhocache_service.registry.tables import AnswerRow, now

KEEP_SECONDS = 24 * 3600.0
# After which a request without an answer counts as lost: its service was killed.
IN_FLIGHT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


class Answers:
    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine)

    def begin(self, api_key: str, idempotency_key: str, request: bytes) -> Answer | None:
        """Return the answer that this request was given before; None where it is to be done now.

        Raises RequestInFlight and IdempotencyKeyReused.
        """
        digest = hashlib.sha256(request).hexdigest()
        with self._session.begin() as session:
            at = now(session.connection())
            # One of a time to come is lost too: the clock was set back since.
            fresh = AnswerRow.at.between(at - IN_FLIGHT_SECONDS, at + IN_FLIGHT_SECONDS)
            lost = AnswerRow.status.is_(None) & ~fresh
            session.execute(delete(AnswerRow).where(or_(AnswerRow.at < at - KEEP_SECONDS, lost)))
        key = {"api_key": api_key, "idempotency_key": idempotency_key}
        try:
            with self._session.begin() as session:
                session.execute(insert(AnswerRow).values(request_sha256=digest, at=at, **key))
        except IntegrityError:
            with self._session() as session:
                row = session.get(AnswerRow, (api_key, idempotency_key))
            if row is None or (row.status is None and row.request_sha256 == digest):
                detail = "a request with this Idempotency-Key is being answered"
                raise RequestInFlight(detail) from None
            if row.request_sha256 != digest:
                detail = "this Idempotency-Key was sent with another request before"
                raise IdempotencyKeyReused(detail) from None
            return Answer(row.status or 0, row.headers or {}, row.body or "")
        return None

    def end(self, api_key: str, idempotency_key: str, answer: Answer | None) -> None:
        """Keep the answer; None forgets a request that failed, so that it may be tried again."""
        with self._session.begin() as session:
            key = (AnswerRow.api_key == api_key) & (AnswerRow.idempotency_key == idempotency_key)
            if answer is None:
                session.execute(delete(AnswerRow).where(key))
            else:
                values = {"status": answer.status, "headers": answer.headers, "body": answer.body}
                session.execute(update(AnswerRow).where(key).values(**values))
