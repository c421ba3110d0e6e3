"""Webhooks on their way: written with the job's end, and kept until they are received."""

import secrets
from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from rhocache_schemas.events import JobEnded
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.tables import DeliveryRow, JobRow, now


def delivery(session: Session, row: JobRow, url: str, state: JobState) -> DeliveryRow:
    """Return what is to be sent, at once, of a job that comes to its end."""
    body = JobEnded.now(row.id, state, row.spec["metadata"])
    return DeliveryRow(
        id=f"msg_{secrets.token_hex(12)}",
        job=row.id,
        url=url,
        body=body.model_dump_json(),
        due_at=now(session.connection()),
    )


class Deliveries:
    def __init__(self, engine: Engine) -> None:
        self._session = sessionmaker(engine, expire_on_commit=False)

    def due(self, limit: int) -> Sequence[DeliveryRow]:
        """Those whose time has come, the longest ago first."""
        with self._session() as session:
            ready = DeliveryRow.due_at <= now(session.connection())
            query = select(DeliveryRow).where(ready).order_by(DeliveryRow.due_at).limit(limit)
            return session.scalars(query).all()

    def end(self, row: DeliveryRow) -> None:
        """Forget one that was received, or is given up."""
        with self._session.begin() as session:
            session.execute(delete(DeliveryRow).where(DeliveryRow.id == row.id))

    def put_off(self, row: DeliveryRow, seconds: float) -> None:
        """Count a try that failed."""
        this = update(DeliveryRow).where(DeliveryRow.id == row.id)
        with self._session.begin() as session:
            due_at = now(session.connection()) + seconds
            session.execute(this.values(tries=row.tries + 1, due_at=due_at))
