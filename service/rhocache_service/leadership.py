"""Which of several services moves the jobs on: one at a time, another as soon as it is gone."""

import secrets
import socket

from sqlalchemy import (
    ColumnElement,
    Double,
    Engine,
    cast,
    extract,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from rhocache_service.database import LeaseRow

SECONDS = 10.0  # without a renewal, after which another may take over
_NAME = "reconciler"


class Leadership:
    """A lease by the database's clock, the only one that all services share.

    One that slept past its lease does no harm: every change of a job asks for the state that it
    was seen in, and Ray refuses a second driver of one name.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.holder = f"{socket.gethostname()}-{secrets.token_hex(8)}"

    def hold(self) -> bool:
        """Take or renew the lease; False where another service has it."""
        now = _now(self._engine)
        mine_or_stale = or_(LeaseRow.holder == self.holder, LeaseRow.until < now)
        renewal = update(LeaseRow).where(LeaseRow.name == _NAME, mine_or_stale)
        values = {"holder": self.holder, "until": now + SECONDS}
        with self._engine.begin() as connection:
            if connection.execute(renewal.values(**values)).rowcount:
                return True
            if connection.scalar(select(LeaseRow.name).where(LeaseRow.name == _NAME)):
                return False
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(LeaseRow).values(name=_NAME, **values))
        except IntegrityError:  # another was faster
            return False
        return True

    def give_up(self) -> None:
        """Let another service take over at once."""
        mine = update(LeaseRow).where(LeaseRow.name == _NAME, LeaseRow.holder == self.holder)
        with self._engine.begin() as connection:
            connection.execute(mine.values(until=0.0))


def _now(engine: Engine) -> ColumnElement[float]:
    """Unix seconds in the database."""
    if engine.dialect.name == "sqlite":
        return (func.julianday("now", type_=Double) - 2440587.5) * 86400.0
    return cast(extract("epoch", func.clock_timestamp()), Double)
