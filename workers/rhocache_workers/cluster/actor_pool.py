"""The encoders of one run: Ray actors that each hold a reference and pull shards."""

import logging
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import JobError, ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.text import printable
from rhocache_workers.cluster.actor import SHARDS_AT_A_TIME, EncoderActor
from rhocache_workers.cluster.members import Member, Pace, Task
from rhocache_workers.cluster.nodes import Leaving, node_of
from rhocache_workers.cluster.placement import Place, Places
from rhocache_workers.cluster.start import one_line, start_ray
from rhocache_workers.encode.reuse import Table
from rhocache_workers.messages import BatchSizes, CommittedShard, Description, ShardInProgress

# Of an encoder's node, or the way to it: what it was doing is not to blame.
_OUTAGES = (ActorUnavailableError, ActorUnschedulableError, NodeDiedError, ObjectLostError)
_DEATHS = (*_OUTAGES, OutOfMemoryError, RayActorError)
_LOOK_SECONDS = 1.0  # between two looks at the cluster's nodes
_PATIENCE_SECONDS = 10.0  # with the first encoder alone, whose node may be busy with other things
# A node that was full after all keeps an encoder in a queue of which it tells no autoscaler.
_ASK_AGAIN_SECONDS = 60.0
ATTEMPTS = 3  # at a shard, or at loading the reference, before a dying encoder counts as its fault
OUTAGES = 10  # of the nodes that a shard was on, before they count as its fault

log = logging.getLogger(__name__)


class Crew:
    """A context manager around the actors, and around Ray where it was not running yet.

    ``on_step`` hears what the first of them does until it can encode.

    Raises JobError when Ray can't be started or joined, or breaks down.
    """

    def __init__(
        self,
        spec: ScoreSpec,
        ray_address: str | None,
        batch_sizes: BatchSizes,
        on_step: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._on_step = on_step
        self._batch_sizes = batch_sizes  # what ``auto`` means, where that is known
        self._address = ray_address
        self._description: Description | None = None
        self._deaths = 0  # of encoders that were loading, since one has loaded
        self._look_at = 0.0  # the nodes, next
        self._members: list[Member] = []
        self._loading: dict[Any, Member] = {}  # by generator of refs
        self._working: dict[Any, Task] = {}  # by generator of refs
        self._waiting: deque[Shard] = deque()
        # Shards whose encoder died: each is tried again by itself, its images decoded apart.
        self._alone: deque[Shard] = deque()
        self._attempts: Counter[str] = Counter()  # by shard, those that ended in a death
        self._outages: Counter[str] = Counter()  # by shard
        self._pace = Pace()  # of all encoders
        self._told: dict[str, Any] = {}  # to encoders, with each shard

    def __enter__(self) -> Self:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            self._on_step("joining Ray" if self._address else "starting Ray")
            start_ray(self._address)
        own_machine = self._owns_ray and self._address is None
        self._places = Places(self._spec.workers, grows=not own_machine)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for member in self._members:
            ray.kill(member.actor)
        if self._owns_ray:
            ray.shutdown()
        if isinstance(error, RayError):
            raise JobError(f"Ray broke down: {one_line(error)}") from error

    def describe(self) -> Description:
        """Load one encoder and tell what it holds.

        Raises ReferenceUnavailable.
        """
        self._on_step("starting an encoder")
        patient_until = time.monotonic() + _PATIENCE_SECONDS
        while self._description is None:
            self._follow(1 if time.monotonic() < patient_until else sys.maxsize)
            for ref in self._ready():
                self._loaded(ref)
        return self._description

    def reuse(self, tables: Sequence[Table]) -> None:
        """Take the rows that these caches have of the pairs that are encoded from now on."""
        # In a list, it is fetched once by each encoder, and not for each shard.
        self._told["tables"] = [ray.put(tables)]

    def encode(
        self, shards: Iterable[Shard], into: Sequence[int] | None = None
    ) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
        """Yield how each shard comes along, and in the end its outcome.

        ``into`` numbers the job's references that encode them, where not all do.

        Raises StorageError when the cache can't be written, JobError when encoders die whatever
        they do, or hold different references.
        """
        self._waiting = deque(shards)
        self._told.pop("into", None)
        if into is not None:
            self._told["into"] = into
        self._look_at = 0.0
        while left := len(self._waiting) + len(self._alone) + len(self._working):
            self._follow(left)
            yield from self._let_leave()
            self._hand_out()
            for ref in self._ready():
                if ref in self._loading:
                    self._loaded(ref)
                elif ref in self._working:
                    yield from self._hear(ref)

    def _hear(self, ref: Any) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
        task = self._working[ref]
        try:
            outcome = _result(next(ref))
        except _DEATHS as error:
            yield from self._lose(task.member, error)
            return
        if isinstance(outcome, ShardInProgress):
            task.begun_at = task.begun_at or time.monotonic()
        else:
            if isinstance(outcome, CommittedShard) and task.begun_at is not None:
                for pace in (self._pace, task.member.pace):
                    pace.add(time.monotonic() - task.begun_at, task.shard.size)
            self._drop(ref)
            task.member.isolates = False
        yield outcome

    def _drop(self, ref: Any) -> Task:
        task = self._working.pop(ref)
        task.member.holds -= 1
        return task

    def _follow(self, most: int) -> None:
        """Have an encoder wherever the cluster has a place for one, ``most`` at most.

        One that has no node yet is kept waiting, so that an autoscaler sees it.
        """
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        places = self._places.look()[:most]
        started = self._started()
        self._settle(places, started)
        there = set(places)
        for member in [m for m in self._members if not m.ready]:
            overlooked = member not in started and _is_late(member)
            if member.place not in there or overlooked:
                self._dismiss(member)
        taken = {member.place for member in self._members if not member.leaves}
        for place in places:
            if place not in taken and len(taken) < len(places):
                self._hire(place)
                taken.add(place)

    def _started(self) -> set[Member]:
        """Those whose process runs, or did."""
        starting = {member.started: member for member in self._members if not member.ready}
        refs: list[Any] = []
        if starting:
            refs, _ = ray.wait(
                list(starting), num_returns=len(starting), timeout=0, fetch_local=False
            )
        return {m for m in self._members if m.ready} | {starting[ref] for ref in refs}

    def _settle(self, places: Sequence[Place], started: set[Member]) -> None:
        """Give those that any node would do for a place of the node that Ray has put them on.

        Otherwise another would wait for it as long as they run, and an autoscaler, which sees none
        that waits for one node, would add no other.
        """
        seated = {member.place for member in started}
        free = [place for place in places if place not in seated]
        for member in [member for member in started if member.place.node is None]:
            node = member.node or node_of(member.actor)
            place = next((place for place in free if place.node == node), None)
            if place is None:
                continue
            free.remove(place)
            for waiting in [each for each in self._members if each.place is place]:
                self._dismiss(waiting)
            if member.ready or member.place.size == place.size:
                member.place = place
            else:
                self._dismiss(member)

    def _let_leave(self) -> Iterator[ShardInProgress]:
        """Let encoders go whose nodes go away, each when what it can finish until then is done."""
        for member in self._members[:]:
            leaving = self._places.leaving.get(member.node or member.place.node or "")
            if leaving is None:
                continue
            if member.holds and not member.leaves:
                yield from self._take_back(member, leaving)
            member.leaves = True
            if not member.holds:
                self._dismiss(member)

    def _take_back(self, member: Member, leaving: Leaving) -> Iterator[ShardInProgress]:
        """Let others begin at once with what an encoder has no time for. That is nobody's fault."""
        seconds = leaving.gone_at - time.time()
        held = [ref for ref, task in self._working.items() if task.member is member]
        given_up = [ref for ref in held if not self._working[ref].fits_in(seconds, self._pace)]
        shards = [self._drop(ref).shard for ref in given_up]
        kept = [self._working[ref].shard.name for ref in held if ref in self._working]
        log.warning(
            "%s goes away%s: it finishes %s and gives up %s",
            leaving.name,
            f" in {seconds:.0f} s" if math.isfinite(seconds) else "",
            printable(", ".join(kept) or "nothing"),
            printable(", ".join(shard.name for shard in shards) or "nothing"),
        )
        (self._alone if member.isolates else self._waiting).extendleft(reversed(shards))
        yield from (ShardInProgress(shard.name, 0) for shard in shards)

    def _ready(self) -> list[Any]:
        """Return each generator of refs with something new; none where none has soon.

        A wait costs the driver 1 µs for each that it waits for, thousands of them where there are
        as many encoders, so it is for all of them. What is handled first may let others go.
        """
        waits: list[Any] = [*self._working, *self._loading]
        if not waits:
            time.sleep(_LOOK_SECONDS)
            return []
        ready, _ = ray.wait(waits, num_returns=len(waits), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(waits, timeout=_LOOK_SECONDS, fetch_local=False)
        return ready

    def _hand_out(self) -> None:
        """Keep every encoder busy, with a second shard to read where all have a first."""
        staying = [member for member in self._members if not member.leaves]
        size = sum(member.ready or member.place.node is not None for member in staying)
        for most in range(SHARDS_AT_A_TIME):
            for member in staying:
                if not member.ready or member.holds != most or member.isolates:
                    continue
                if member.holds == 0 and self._alone:
                    self._start(member, self._alone.popleft(), isolate=True)
                elif self._waiting and (member.holds == 0 or len(self._waiting) >= size):
                    self._start(member, self._waiting.popleft(), isolate=False)

    def _start(self, member: Member, shard: Shard, *, isolate: bool) -> None:
        method = member.actor.encode.options(num_returns="streaming")
        self._working[method.remote(shard, isolate=isolate, **self._told)] = Task(member, shard)
        member.holds += 1
        member.isolates = isolate

    def _lose(self, member: Member, error: RayError) -> Iterator[ShardInProgress | ShardError]:
        """Let the shards of a dead encoder be done again, or give them up."""
        outage = self._is_outage(member, error)
        again = self._waiting if outage and not member.isolates else self._alone
        deaths, most = (self._outages, OUTAGES) if outage else (self._attempts, ATTEMPTS)
        for shard in self._dismiss(member):
            deaths[shard.name] += not member.leaves  # what was told before is nobody's fault
            if deaths[shard.name] < most:
                again.append(shard)
                yield ShardInProgress(shard.name, 0)
            else:
                yield _deadly(shard, most, error)

    def _is_outage(self, member: Member, error: RayError) -> bool:
        """Whether the node is to blame: Ray says so, or does not know it any more."""
        preempted = isinstance(error, RayActorError) and error.preempted
        places = self._places.look()
        gone = member.place.node is not None and member.place not in places
        return isinstance(error, _OUTAGES) or preempted or gone or member.leaves

    def _dismiss(self, member: Member) -> list[Shard]:
        """Let an encoder go; give the shards that it had."""
        ray.kill(member.actor)  # one that counts as dead may only have been out of reach
        self._members.remove(member)
        self._loading = {ref: m for ref, m in self._loading.items() if m is not member}
        lost = [ref for ref, task in self._working.items() if task.member is member]
        return [self._working.pop(ref).shard for ref in lost]

    def _hire(self, place: Place) -> None:
        encoder: Any = ray.remote(EncoderActor)
        options = {**place.options, "max_concurrency": SHARDS_AT_A_TIME}
        actor = encoder.options(**options).remote(self._spec, place.threads)
        member = Member(actor, place, actor.__ray_ready__.remote(), time.monotonic())
        self._members.append(member)
        self._loading[actor.load.remote(self._batch_sizes)] = member

    def _loaded(self, ref: Any) -> None:
        member = self._loading[ref]
        try:
            told: str | Description = _result(next(ref))
        except _DEATHS as error:
            self._dismiss(member)
            self._deaths += not self._is_outage(member, error)
            if self._deaths >= ATTEMPTS:
                raise JobError(
                    f"encoders die while they load the reference: {one_line(error)}"
                ) from error
            return
        if isinstance(told, str):
            if self._description is None:
                self._on_step(told)
            return
        del self._loading[ref]
        description = told
        if self._description is None:
            self._description = description
            self._batch_sizes = {
                spec.output: {each.device: each.batch_size}
                for spec, each in zip(self._spec.each, description.each, strict=True)
            }
        for spec, first, each in zip(
            self._spec.each, self._description.each, description.each, strict=True
        ):
            if first.fingerprint.digest != each.fingerprint.digest:
                raise JobError(
                    f"two encoders hold different references: the files of {spec.reference.model} "
                    "or their software differ between the cluster's nodes"
                )
        member.ready, member.node = True, member.place.node or node_of(member.actor)
        self._deaths = 0


def _is_late(member: Member) -> bool:
    """Whether it is to be asked for anew."""
    asked_for = time.monotonic() - member.asked_at
    return member.place.node is None and asked_for >= _ASK_AGAIN_SECONDS


def _result(ref: Any) -> Any:
    """The value of a finished call, or the error that the actor raised, as itself."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def _deadly(shard: Shard, deaths: int, error: RayError) -> ShardError:
    out_of_memory = isinstance(error, OutOfMemoryError)
    code = ShardErrorCode.OUT_OF_MEMORY if out_of_memory else ShardErrorCode.ENCODER_DIED
    detail = f"its encoder died {deaths} times: {one_line(error)}"
    return ShardError(code, shard.name, detail)
