"""One cache of a run: how it stands, what it lacks, what became of its shards, and its commit."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Plan, ShardFailure
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ErrorBudgetExceeded, JobError, ShardError
from rhocache_schemas.job.allowed_roots import open_allowed
from rhocache_schemas.job.kinds.score import PAIRS_BUDGET, SHARDS_BUDGET, ScoreSpec
from rhocache_schemas.text import printable
from rhocache_workers.messages import CommittedShard, Description
from rhocache_workers.run.commit import commit
from rhocache_workers.run.resume import Resume
from rhocache_workers.run.segments import Segments, clear_segments
from rhocache_workers.run.standing import Standing, hash_reference

log = logging.getLogger(__name__)


@dataclass
class OneCache:
    spec: ScoreSpec  # of its reference alone
    standing: Standing
    left: Resume
    confirm: Callable[[], None]  # raises CacheBusy where it has become another run's

    # Shards, by their names.
    committed: dict[str, CommittedShard] = field(init=False)
    failures: dict[str, ShardError] = field(init=False)
    encoded: int = 0  # shards, by this run
    reused: int = 0  # of their pairs

    def look(self) -> None:
        """See what of the cache is known without the reference.

        Raises FingerprintMismatch, as far as the job alone tells.
        """
        made = self.standing.fingerprint
        if made is not None and not self.spec.replace:
            made.check_options(self.spec)
        storage.discard_temporaries(self.spec.output)
        self._reference_sha256 = hash_reference(self.spec.reference)
        # None where only the reference can tell.
        self.description: Description | None = (
            None if self.left.todo else self.standing.description(self.spec, self._reference_sha256)
        )

    def describe(self, description: Description, shards: list[Shard]) -> None:
        """Take what the loaded reference is. Raises FingerprintMismatch."""
        self.description, made = description, self.standing.fingerprint
        if self.spec.replace and made not in (None, description.fingerprint):
            self.left = self.left.afresh(shards)
        elif made is not None:
            made.check_same(description.fingerprint, self.spec.output)

    @property
    def described(self) -> Description:
        if self.description is None:
            raise RuntimeError(f"nothing has said what makes {self.spec.output}")
        return self.description

    def begin(self, shards: list[Shard]) -> None:
        """Begin the cache, where it is not begun for the same, and let go what was asked to go."""
        spec, left, description = self.spec, self.left, self.described
        if description.warning is not None:
            log.warning("%s", printable(description.warning))
        made, plan = self.standing.fingerprint, self.standing.plan
        other = (
            plan is None
            or made != description.fingerprint
            or (plan.spec.dataset != spec.dataset and (spec.replace or left.empty))
        )
        if left.dropped or (other and not left.empty):
            # A reader finds an incomplete cache, never a manifest that lies.
            self.confirm()
            storage.delete(layout.manifest_file(spec.output))
        for name in left.dropped:
            storage.delete(layout.shard_file(spec.output, name))
            storage.delete(layout.failure_file(spec.output, name))
        for name in left.failed_before & left.keep.keys():  # a run that died before it did this
            storage.delete(layout.failure_file(spec.output, name))
        if other:
            self.confirm()
            sizes = {description.device: description.batch_size} if description.device else {}
            names = [shard.name for shard in shards]
            begun = Plan.begin(spec, description.fingerprint, names, sizes)
            storage.write_atomic(layout.plan_file(spec.output), begun.to_json())
        self.committed, self.failures = left.keep, left.failures
        self._segments = Segments(spec.output, description.fingerprint.digest, self.confirm)

    def note_kept(self) -> None:
        """Begin the notes of this run. Raises as ``Segments.begin`` does."""
        self._segments.begin(self.left.keep.values(), self.standing.index.keys())

    def flush(self) -> None:
        self._segments.flush()

    def note(self, outcome: CommittedShard | ShardError) -> None:
        """Note what became of a shard."""
        if isinstance(outcome, ShardError):
            self.failures[outcome.shard] = outcome
            uri = layout.failure_file(self.spec.output, outcome.shard)
            storage.write_atomic(uri, ShardFailure.of(outcome).to_json())
            return
        name = outcome.index.name
        # Kept until the commit, for each of maybe 100,000 shards: no more than the index needs.
        self.committed[name] = replace(outcome, stages=None)
        self.encoded += 1
        self.reused += outcome.reused
        if name in self.left.failed_before:
            storage.delete(layout.failure_file(self.spec.output, name))
        self._segments.add(self.committed[name])

    def end(self) -> None:
        """Every shard has ended."""
        self.confirm()
        storage.discard_temporaries(self.spec.output)  # of encoders that were killed

    def commit(self) -> None:
        commit(
            self.spec,
            self.described,
            self._reference_sha256,
            list(self.committed.values()),
            self.failures,
            self.confirm,
            self.standing.origin(self.described.fingerprint),
        )
        clear_segments(self.spec.output)

    @property
    def rows(self) -> int:
        """Pairs that were to be encoded: without those that are beyond a job's limit."""
        return sum(shard.encoded for shard in self.committed.values())

    @property
    def failed(self) -> int:
        return self.failed_by_code.total()

    @property
    def failed_by_code(self) -> Counter[str]:
        return sum((shard.failures for shard in self.committed.values()), Counter[str]())

    def check(self, roots: list[str] | None) -> None:
        """Raises JobError when there is not one usable row, and ErrorBudgetExceeded."""
        spec, rows, failed = self.spec, self.rows, self.failed
        if failed == rows:
            first = next(iter(self.failures.values()), None)
            raise JobError(
                f"no pair of {spec.dataset} could be scored "
                f"({first or ', '.join(self.failed_by_code) or 'its shards are empty'}): "
                + open_allowed(spec.source, spec.format, roots).describe()
            )
        tried = len(self.failures.keys() | self.committed.keys())
        for what, part, whole, default in (
            ("pairs", failed, rows, PAIRS_BUDGET),
            ("shards", len(self.failures), tried, SHARDS_BUDGET),
        ):
            budget = default if spec.error_budget is None else spec.error_budget
            if part > budget * whole:
                raise ErrorBudgetExceeded(
                    f"{part} of {whole} {what} failed, above the error budget of {budget:g}: the "
                    f"cache is not committed. `rhocache errors {spec.output}` tells what failed; "
                    f"run it again with --error-budget {_enough(part / whole)} to commit it "
                    "without encoding again"
                )


def _enough(share: float) -> str:
    """A budget that a share is within, of two digits."""
    return f"{min(1.0, math.ceil(100 * share) / 100):g}"
