"""A job's driver in Ray, through Ray's job submission API."""

import shlex
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from rhocache_schemas.errors import JobError, RayUnreachable
from rhocache_schemas.job.kinds import JobOrder
from rhocache_schemas.network import is_loopback
from rhocache_service.registry.tables import JobRow

ANSWER_SECONDS = 60.0  # that Ray may take for an answer


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


class _Client(JobSubmissionClient):
    """Ray's own waits for ever for an answer, and asks a proxy even for this machine."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        host = urlsplit(self._address).hostname
        direct = {"proxies": {"no_proxy": host}} if is_loopback(host) else {}
        options = {"timeout": ANSWER_SECONDS, **direct, **options}
        return super()._do_request(method, endpoint, **options)  # pyright: ignore


class Drivers:
    """All methods raise RayUnreachable where Ray does not answer, and JobError where it refuses."""

    def __init__(
        self, address: str, headers: dict[str, str], python: str, roots: Sequence[str]
    ) -> None:
        """``headers`` authenticate to Ray; ``python`` runs the drivers, where Ray is."""
        self._address = address
        with self._errors("Ray is not to be used"):
            self._client = _Client(address, headers=headers)
        self._roots = list(roots)
        self._entrypoint = f"{shlex.quote(python)} -m rhocache_workers.job"

    def start(self, row: JobRow, start: int) -> None:
        """Start a driver, unless the very same start was made before.

        The entrypoint is fixed; what to do travels as data, in a file of any size.
        """
        order = JobOrder(job=row.id, start=start, spec=row.job_spec(), roots=self._roots)
        with self._errors(f"Ray does not take job {row.id} yet"), TemporaryDirectory() as folder:
            Path(folder, JobOrder.FILE).write_bytes(order.to_json())
            try:
                self._client.submit_job(
                    entrypoint=self._entrypoint,
                    submission_id=_name(row.id, start),
                    runtime_env={"working_dir": folder},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

    def state(self, job: str, start: int) -> DriverState:
        with self._errors(f"Ray does not tell of job {job}"):
            try:
                return _STATES[self._client.get_job_status(_name(job, start))]
            except RuntimeError as error:
                if not str(error).startswith("Request failed with status code 404"):
                    raise
                return DriverState.UNKNOWN

    def stop(self, job: str, start: int) -> None:
        with self._errors(f"Ray does not stop job {job}"):
            self._client.stop_job(_name(job, start))

    def log(self, job: str, start: int) -> list[str]:
        """What the driver printed, by lines."""
        with self._errors("its log can't be read"):
            return self._client.get_job_logs(_name(job, start)).strip().splitlines()

    def last_line(self, job: str, start: int) -> str:
        """The last thing that the driver printed."""
        try:
            lines = self.log(job, start)
        except JobError as error:
            return str(error)
        return lines[-1][:1000] if lines else "it printed nothing"

    def ping(self) -> None:
        with self._errors("Ray is not well"):
            self._client.get_version()

    @contextmanager
    def _errors(self, what: str) -> Generator[None]:
        """Let what the client raises become one line, that is the same for the same cause."""
        try:
            yield
        except OSError as error:
            cause = error.strerror or "no answer"
            raise RayUnreachable(f"cannot reach Ray at {self._address}: {cause}") from error
        except (RuntimeError, ValueError, RayError) as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise JobError(f"{what}: {cause}") from error


def _name(job: str, start: int) -> str:
    return f"{job}-{start}"
