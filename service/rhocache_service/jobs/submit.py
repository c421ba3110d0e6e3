"""Taking jobs: what a submission must pass, and how a repeated one is answered."""

import hashlib
import json
from dataclasses import dataclass

from rhocache_schemas import layout, storage
from rhocache_schemas.api import Submission
from rhocache_schemas.cache.documents import Plan
from rhocache_schemas.dataset.shards import check_size
from rhocache_schemas.documents import check_version
from rhocache_schemas.job.allowed_roots import check_job, true_place
from rhocache_schemas.job.paths import absolute
from rhocache_schemas.job.spec import JobSpec
from rhocache_service.http.problems import ProblemError
from rhocache_service.registry.callers import Caller
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow
from rhocache_service.settings import Settings

_RETRY_SECONDS = "30"
# What of a spec decides the cache's rows; the rest is how it is made.
_CONTENT = {
    "dataset", "reference", "shards", "caption_field", "dtype", "retry_failed", "prune", "replace"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Submissions:
    registry: Registry
    settings: Settings

    def admit(self, submission: Submission) -> JobSpec:
        """Give the spec of a job that may be run, with its paths spelled out.

        Raises UriNotAllowed, InvalidInput, FingerprintMismatch and StorageError.
        """
        check_version(submission.format_version, "the job spec")
        spec = absolute(submission.job_spec())
        check_job(spec, self.settings.roots)
        _check_dataset(spec.dataset)
        _check_cache(spec)
        return spec

    def add(self, submission: Submission, spec: JobSpec, who: Caller) -> JobRow:
        """Raises ProblemError where the caller has too many jobs."""
        self._check_limits(who)
        expires = submission.expires_after
        return self.registry.add(
            spec,
            api_key=who.key,
            priority=submission.priority,
            deadline=None if expires is None else self.registry.now() + expires,
            **self._place(spec),
        )

    def retry(self, row: JobRow, who: Caller) -> JobRow:
        """Add a job for what a job at an end has left: failed shards, and rows that may be mended.

        Raises ProblemError.
        """
        if not row.state.terminal:
            raise ProblemError("job-state-conflict", f"job {row.id} is {row.status}: it goes on")
        self._check_limits(who)
        spec = row.job_spec().model_copy(update={"retry_failed": True})
        return self.registry.add(
            spec,
            api_key=who.key,
            priority=row.priority,
            retries=row.id,
            **self._place(spec),
        )

    def _place(self, spec: JobSpec) -> dict[str, str | None]:
        """Its cache, and the job at work on it of which it is a repetition."""
        content = spec.model_dump(mode="json", include=_CONTENT)
        place = repr(true_place(spec.output))
        digest = hashlib.sha256(
            f"{place}{json.dumps(content, sort_keys=True)}".encode()
        ).hexdigest()
        return {"content_sha256": digest, "follows": self.registry.at_work(digest)}

    def _check_limits(self, who: Caller) -> None:
        settings, headers = self.settings, {"Retry-After": _RETRY_SECONDS}
        if self.registry.waiting(who.key) >= settings.max_waiting_jobs:
            detail = f"{settings.max_waiting_jobs} jobs wait already"
            raise ProblemError("queue-full", detail, headers=headers)
        if wait := self.registry.seconds_to_wait(who.key, settings.submits_per_minute):
            detail = f"at most {settings.submits_per_minute} jobs a minute may be submitted"
            raise ProblemError("rate-limited", detail, headers={"Retry-After": str(wait)})


def _check_dataset(dataset: str) -> None:
    """Refuse at once a pattern of too many names, and a path that no disk could have."""
    if "{" in dataset:
        check_size(dataset)
    elif storage.scheme(dataset) == "file":
        storage.exists(dataset)


def _check_cache(spec: JobSpec) -> None:
    """Refuse at once what the driver would refuse in minutes, as far as names tell."""
    uri = layout.plan_file(spec.output)
    if not spec.replace and storage.exists(uri):
        Plan.read(uri).fingerprint.check_options(spec)
