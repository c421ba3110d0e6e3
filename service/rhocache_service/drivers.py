"""A job's driver in Ray, through Ray's job submission API."""

import json
import shlex
from collections.abc import Sequence
from enum import StrEnum

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from rhocache_schemas.errors import JobError
from rhocache_service.database import JobRow


class DriverState(StrEnum):
    UNKNOWN = "unknown"  # Ray has never heard of it, or has forgotten it
    RUNNING = "running"  # or about to
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


_STATES = {
    JobStatus.PENDING: DriverState.RUNNING,
    JobStatus.RUNNING: DriverState.RUNNING,
    JobStatus.SUCCEEDED: DriverState.SUCCEEDED,
    JobStatus.FAILED: DriverState.FAILED,
    JobStatus.STOPPED: DriverState.STOPPED,
}


_ERRORS = (RuntimeError, ConnectionError, RayError)  # what the client raises


class Drivers:
    """All methods raise JobError when Ray can't be reached."""

    def __init__(
        self, address: str, headers: dict[str, str], python: str, roots: Sequence[str]
    ) -> None:
        """``headers`` authenticate to Ray; ``python`` runs the drivers, where Ray is."""
        try:
            self._client = JobSubmissionClient(address, headers=headers)
        except _ERRORS as error:
            raise JobError(f"cannot reach Ray at {address}: {error}") from error
        self._roots = list(roots)
        self._entrypoint = f"{shlex.quote(python)} -m rhocache_workers.job"

    def start(self, row: JobRow, start: int) -> None:
        """Start a driver, unless the very same start was made before.

        The entrypoint is fixed; what to do travels as data in environment variables.
        """
        variables = {
            "RHOCACHE_JOB_SPEC": json.dumps(row.spec),
            "RHOCACHE_JOB_ID": row.id,
            "RHOCACHE_ALLOWED_ROOTS": json.dumps(self._roots),
        }
        try:
            self._client.submit_job(
                entrypoint=self._entrypoint,
                submission_id=_name(row.id, start),
                runtime_env={"env_vars": variables},
            )
        except _ERRORS as error:
            if "already exists" not in str(error):
                cause = str(error).strip().splitlines()[-1]
                raise JobError(f"Ray does not take job {row.id} yet: {cause}") from error

    def state(self, job: str, start: int) -> DriverState:
        try:
            return _STATES[self._client.get_job_status(_name(job, start))]
        except _ERRORS as error:
            if "404" in str(error) or "does not exist" in str(error):
                return DriverState.UNKNOWN
            raise JobError(f"Ray does not tell of job {job}: {error}") from error

    def stop(self, job: str, start: int) -> None:
        try:
            self._client.stop_job(_name(job, start))
        except _ERRORS as error:
            raise JobError(f"Ray does not stop job {job}: {error}") from error

    def last_line(self, job: str, start: int) -> str:
        """The last thing that the driver printed."""
        try:
            lines = self._client.get_job_logs(_name(job, start)).strip().splitlines()
        except _ERRORS as error:
            return f"its log can't be read: {error}"
        return lines[-1][:1000] if lines else "it printed nothing"

    def ping(self) -> None:
        try:
            self._client.get_version()
        except _ERRORS as error:
            raise JobError(f"cannot reach Ray: {error}") from error


def _name(job: str, start: int) -> str:
    return f"{job}-{start}"
