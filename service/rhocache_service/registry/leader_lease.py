"""The leader lease: one of several services moves jobs on, and another as soon as it is gone."""

import logging
import secrets
import socket
import threading
import time

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.tables import AnswerRow, DeliveryRow, JobRow, LeaseRow, now

SECONDS = 10.0  # without a renewal, after which another may take over
JUMP_SECONDS = 2.0  # that a clock is off by before it counts as set; a busy machine is late too

_NAME = "reconciler"
_NOBODY = ""
_LEASE = LeaseRow.name == _NAME

_Lease = tuple[str, int]  # its holder, and how often it was renewed

log = logging.getLogger(__name__)


class Leadership:
    """A lease that tells no time: whoever wants it watches for SECONDS whether it is renewed.

    One that slept past its lease does no harm: every change of a job asks for the state that it
    was seen in, and Ray refuses a second driver of one name.

    The leader sees it where the clock of the registry is set while it leads, or was set back since
    someone led: what the registry holds of times to come is moved by as much.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.holder = f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._seen: _Lease | None = None  # as it was found last
        self._since = 0.0  # by the clock that only goes on: when it was found so first

    def hold(self) -> bool:
        """Take or renew the lease; False where another service has it."""
        with self._lock:
            with self._engine.begin() as connection:
                held, seen, since = self._look(connection)
            self._seen, self._since = seen, since  # once it is committed
            return held

    def _look(self, connection: Connection) -> tuple[bool, _Lease, float]:
        """Whether the lease is held now, what it says, and since when by the steady clock."""
        wall, steady = now(connection), time.monotonic()
        lease = connection.execute(select(LeaseRow.__table__).where(_LEASE)).first()
        if lease is None:
            return self._make(connection, wall), (self.holder, 0), steady
        seen = lease.holder, lease.renewals
        since = self._since if seen == self._seen else steady
        ours, passed = lease.holder == self.holder, steady - since
        if not ours and lease.holder != _NOBODY and passed < SECONDS:
            return False, seen, since
        as_found = (LeaseRow.holder == lease.holder, LeaseRow.renewals == lease.renewals)
        renewal = update(LeaseRow).where(_LEASE, *as_found)
        values = {"holder": self.holder, "renewals": lease.renewals + 1, "at": wall}
        if not connection.execute(renewal.values(**values)).rowcount:
            return False, seen, since  # another was faster
        # How long nobody led is not known, but it was no negative time.
        jump = wall - lease.at - passed if ours else min(0.0, wall - lease.at)
        if abs(jump) > JUMP_SECONDS:
            _move_times(connection, jump)
        return True, (self.holder, lease.renewals + 1), steady

    def _make(self, connection: Connection, wall: float) -> bool:
        values = {"name": _NAME, "holder": self.holder, "renewals": 0, "at": wall}
        try:
            with connection.begin_nested():
                connection.execute(insert(LeaseRow).values(**values))
        except IntegrityError:  # another was faster
            return False
        return True

    def give_up(self) -> None:
        """Let another service take over at once."""
        mine = update(LeaseRow).where(_LEASE, LeaseRow.holder == self.holder)
        with self._engine.begin() as connection:
            connection.execute(mine.values(holder=_NOBODY))


def _move_times(connection: Connection, seconds: float) -> None:
    """Keep stored times as far from now as they were, where the clock was set."""
    log.warning("the clock was set by %+.1f s: deadlines are moved with it", seconds)
    unfinished = JobRow.status.in_([state for state in JobState if not state.terminal])
    moved = {
        column: column + seconds for column in (JobRow.deadline, JobRow.started_at, JobRow.moved_at)
    }
    connection.execute(update(JobRow).where(unfinished).values(moved))
    connection.execute(update(AnswerRow).values({AnswerRow.at: AnswerRow.at + seconds}))
    due_at = DeliveryRow.due_at + seconds
    connection.execute(update(DeliveryRow).values({DeliveryRow.due_at: due_at}))
