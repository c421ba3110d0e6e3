"""Taking jobs: what a submission must pass, and how a repeated one is answered."""

import hashlib
import json
from dataclasses import dataclass

from rhocache_schemas import storage
from rhocache_schemas.api import Submission, Validation
from rhocache_schemas.documents import check_version
from rhocache_schemas.errors import JobStateConflict, QueueFull, RateLimited
from rhocache_schemas.job.allowed_roots import check_code, check_job, true_place
from rhocache_schemas.job.paths import absolute
from rhocache_schemas.job.spec import JobSpec
from rhocache_service.http.rate_limits import Limit
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.jobs.webhooks import check_target
from rhocache_service.registry.callers import Caller
from rhocache_service.registry.jobs import SUBMITTED_SECONDS, Registry
from rhocache_service.registry.tables import JobRow
from rhocache_service.settings import Settings

_RETRY_SECONDS = 30  # until a queue that is full is worth another look
_NOT_CONTENT = {"format_version", "output", "metadata"}  # of a spec: that is what a job makes


@dataclass(frozen=True, slots=True)
class Submissions:
    registry: Registry
    settings: Settings

    def admit(self, submission: Submission) -> JobSpec:
        """Return the spec of a job that may be run, with its paths spelled out.

        Raises UriNotAllowed, WebhookNotAllowed, InvalidInput, FingerprintMismatch and StorageError.
        """
        spec = submission.job_spec()
        check_version(spec.format_version, "the job spec")
        spec = absolute(spec)
        check_job(spec, self.settings.roots)
        check_code(spec, self.settings.code_root)
        for output in spec.outputs:
            storage.check_writable(output)
        if submission.webhook is not None:
            check_target(submission.webhook, self.settings)
        kind_of(spec).check(spec)
        return spec

    def preview(self, submission: Submission) -> Validation:
        """Tell what a job would do. Raises as ``admit`` does, DatasetError and DatasetMismatch."""
        spec = self.admit(submission)
        return kind_of(spec).preview(spec, self.settings.roots, self.registry)

    def add(self, submission: Submission, spec: JobSpec, who: Caller) -> JobRow:
        """Raises RateLimited and QueueFull."""
        self._check_limits(who)
        expires = submission.expires_after
        return self.registry.add(
            spec,
            api_key=who.key,
            priority=submission.priority,
            webhook=submission.webhook,
            deadline=None if expires is None else self.registry.now() + expires,
            **self._place(spec),
        )

    def retry(self, row: JobRow, who: Caller) -> JobRow:
        """Add a job for what a job at an end has left.

        Raises JobStateConflict, RateLimited, QueueFull, and InvalidInput for a kind that is not
        installed any more.
        """
        if not row.state.terminal:
            raise JobStateConflict(f"job {row.id} is {row.status}: it goes on")
        self._check_limits(who)
        spec = row.job_spec()
        spec = kind_of(spec).retry(spec)
        return self.registry.add(
            spec,
            api_key=who.key,
            priority=row.priority,
            webhook=row.webhook,
            retries=row.id,
            **self._place(spec),
        )

    def _place(self, spec: JobSpec) -> dict[str, str | None]:
        """Its cache, and the job at work on it of which it is a repetition."""
        content = spec.model_dump(mode="json", exclude=_NOT_CONTENT | kind_of(spec).how)
        place = repr(true_place(spec.output))
        digest = hashlib.sha256(
            f"{place}{json.dumps(content, sort_keys=True)}".encode()
        ).hexdigest()
        return {"content_sha256": digest, "follows": self.registry.at_work(digest)}

    def limits(self, who: Caller) -> tuple[Limit, Limit]:
        """What the caller may still submit: in this minute, and until some jobs have begun."""
        most, most_waiting = self.settings.submits_per_minute, self.settings.max_waiting_jobs
        submitted, reset = self.registry.submitted(who.key)
        left = max(0, most - submitted)
        left_waiting = max(0, most_waiting - self.registry.waiting(who.key))
        return (
            Limit("submissions", most, left, SUBMITTED_SECONDS, reset),
            Limit("waiting-jobs", most_waiting, left_waiting),
        )

    def _check_limits(self, who: Caller) -> None:
        submissions, waiting = self.limits(who)
        if not waiting.left:
            raise QueueFull(f"{waiting.quota} jobs wait already", _RETRY_SECONDS)
        if not submissions.left:
            detail = f"at most {submissions.quota} jobs a minute may be submitted"
            raise RateLimited(detail, submissions.reset or 1)
