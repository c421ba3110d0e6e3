"""Every error that rhocache raises on purpose.

    RhocacheError
    ├── InvalidInput                a value that the caller gave
    │   ├── InvalidDocument         a job spec, plan, manifest, ... that does not fit its schema
    │   ├── UnsupportedVersion      a document written by a newer major version
    │   ├── UriNotAllowed           a location outside the allowed roots, or nowhere
    │   └── WebhookNotAllowed       a URL that the service tells nothing
    ├── MissingExtra                a room whose packages are not installed
    ├── StorageError                a file or object that could not be read or written
    ├── DatasetError                no dataset, or no shard, at the given place
    ├── ShardError                  a shard that could not be read; carries a ShardErrorCode
    ├── RowError                    a pair that could not be used; carries a RowErrorCode
    ├── ReferenceUnavailable        the reference model could not be found or loaded
    ├── CacheError
    │   ├── CacheNotFound           nothing at the given place
    │   ├── CacheBusy               another run is at work on it
    │   ├── CacheIncomplete         no manifest yet, or a shard is missing
    │   ├── CacheCorrupt            bytes that differ from their recorded hash
    │   ├── FingerprintMismatch     made by another reference, preprocessing or dtype
    │   ├── DatasetMismatch         holds the pairs of another dataset
    │   ├── TableMismatch           a table of another cache, or of other options
    │   ├── MissingPair             a pair without a usable reference row
    │   └── PairMismatch            a pair whose image or caption is not the one that was scored
    ├── TrainingError               a training run that cannot start, resume or go on
    ├── JobError                    a job that cannot go on
    │   ├── ErrorBudgetExceeded     more pairs failed than the job allows
    │   ├── JobStateConflict        a transition that the job's state does not permit
    │   ├── TooManyJobs             of one caller; carries after how long to ask again
    │   │   ├── QueueFull           as many wait as may
    │   │   └── RateLimited         as many were submitted in a minute as may
    │   └── RayUnreachable          no Ray answers, or none could be started
    ├── RequestInFlight             the same request, by its Idempotency-Key, is being answered
    ├── IdempotencyKeyReused        the Idempotency-Key was sent with another request before
    ├── ServiceError                an answer of the service that is a problem, or no answer
    └── Abandoned                   work that nobody waits for any more

Each class has a ``code``, the slug used in logs, problems and progress files, and an
``exit_code``, the status with which the command line ends. Their texts often quote a dataset, and
end on terminals and in logs: ``str`` gives them printable, in one line.
"""

from enum import StrEnum
from http import HTTPStatus

from pydantic import BaseModel

from rhocache_schemas.text import tell


class RhocacheError(Exception):
    code = "error"
    exit_code = 1

    def __str__(self) -> str:
        """The message, printable and with no secret in it: it goes to terminals, logs, answers."""
        return tell(super().__str__())


class InvalidInput(RhocacheError):
    code = "invalid-input"
    exit_code = 2


class InvalidDocument(InvalidInput):
    code = "invalid-document"


class UnsupportedVersion(InvalidInput):
    code = "unsupported-version"


class UriNotAllowed(InvalidInput):
    code = "uri-not-allowed"


class WebhookNotAllowed(InvalidInput):
    code = "webhook-not-allowed"


class MissingExtra(RhocacheError):
    code = "missing-extra"


class StorageError(RhocacheError):
    code = "storage"


class DatasetError(RhocacheError):
    code = "dataset"


class ShardErrorCode(StrEnum):
    """Why a shard failed; ``meaning`` tells people."""

    TAR_TRUNCATED = "tar_truncated"
    TAR_UNORDERED = "tar_unordered"
    TABLE_DAMAGED = "table_damaged"
    IO_ERROR = "io_error"
    OUT_OF_MEMORY = "out_of_memory"
    ENCODER_DIED = "encoder_died"


class ShardError(RhocacheError):
    def __init__(self, code: ShardErrorCode, shard: str, detail: str) -> None:
        super().__init__(f"shard {shard}: {detail}")
        self.code = code
        self.shard = shard
        self.detail = detail

    def __reduce__(self):  # crosses process borders, and Exception pickles only its message
        return ShardError, (self.code, self.shard, self.detail)


class RowErrorCode(StrEnum):
    """Why a pair failed; ``meaning`` tells people."""

    IMAGE_MISSING = "image_missing"
    IMAGE_UNDECODABLE = "image_undecodable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    TEXT_MISSING = "text_missing"
    TEXT_NOT_UTF8 = "text_not_utf8"
    DUPLICATE_KEY = "duplicate_key"
    NON_FINITE_EMBEDDING = "non_finite_embedding"
    OVER_LIMIT = "over_limit"  # no failure

    @property
    def retryable(self) -> bool:
        """Whether another try, or newer software, may do better with the same bytes."""
        return self in (RowErrorCode.IMAGE_UNDECODABLE, RowErrorCode.NON_FINITE_EMBEDDING)


_MEANINGS: dict[str, str] = {
    ShardErrorCode.TAR_TRUNCATED: "it ends, or turns to garbage, before its end-of-archive marker",
    ShardErrorCode.TAR_UNORDERED: "its members are not grouped by key: sort them by name",
    ShardErrorCode.TABLE_DAMAGED: "a part of a Parquet file that can't be read",
    ShardErrorCode.IO_ERROR: "the storage failed while it was read; another run tries it again",
    ShardErrorCode.OUT_OF_MEMORY: "encoding it took more memory than there is",
    ShardErrorCode.ENCODER_DIED: "the process that encoded it died, each time that it was tried",
    RowErrorCode.IMAGE_MISSING: "no KEY.jpg, png, jpeg or webp (a name's key ends at its first dot)"
    ", or nothing where a table has or names it",
    RowErrorCode.IMAGE_UNDECODABLE: "a picture that is cut, damaged, or of another kind",
    RowErrorCode.IMAGE_TOO_LARGE: "a picture of more bytes or pixels than the limits",
    RowErrorCode.IMAGE_TOO_SMALL: "a picture with a side too short to be resized sensibly",
    RowErrorCode.TEXT_MISSING: "no KEY.txt, field of KEY.json or table's caption, or nothing or "
    "too much in it",
    RowErrorCode.TEXT_NOT_UTF8: "a caption that is not UTF-8",
    RowErrorCode.DUPLICATE_KEY: "a key that came before in the same shard",
    RowErrorCode.NON_FINITE_EMBEDDING: "the reference made infinities or NaN of it",
    RowErrorCode.OVER_LIMIT: "beyond the first pairs, which alone were asked for",
}


def meaning(code: str) -> str:
    """What a failed shard's or pair's code says; empty for a code of newer software."""
    return _MEANINGS.get(code, "")


class RowError(RhocacheError):
    code: RowErrorCode

    def __init__(self, code: RowErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class ReferenceUnavailable(RhocacheError):
    code = "reference-unavailable"


class CacheError(RhocacheError):
    code = "cache"


class CacheNotFound(CacheError):
    code = "cache-not-found"


class CacheBusy(CacheError):
    code = "cache-busy"


class CacheIncomplete(CacheError):
    code = "cache-incomplete"


class CacheCorrupt(CacheError):
    code = "cache-corrupt"


class FingerprintMismatch(CacheError):
    code = "fingerprint-mismatch"


class DatasetMismatch(CacheError):
    code = "dataset-mismatch"


class TableMismatch(CacheError):
    code = "table-mismatch"


class MissingPair(CacheError):
    code = "missing-pair"


class PairMismatch(CacheError):
    code = "pair-mismatch"


class TrainingError(RhocacheError):
    code = "training"


class JobError(RhocacheError):
    code = "job"


class ErrorBudgetExceeded(JobError):
    code = "error-budget-exceeded"
    exit_code = 3


class JobStateConflict(JobError):
    code = "job-state-conflict"


class TooManyJobs(JobError):
    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after  # seconds


class QueueFull(TooManyJobs):
    code = "queue-full"


class RateLimited(TooManyJobs):
    code = "rate-limited"


class RayUnreachable(JobError):
    code = "ray-unreachable"


class RequestInFlight(RhocacheError):
    code = "idempotency-in-flight"


class IdempotencyKeyReused(RhocacheError):
    code = "idempotency-key-reused"


class FieldError(BaseModel):
    pointer: str  # JSON pointer into the request body
    detail: str


class Problem(BaseModel):
    """application/problem+json."""  # RFC 9457: an error as REST answers tell it

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError] = []


class ServiceError(RhocacheError):
    code = "service"

    def __init__(self, detail: str, problem: Problem | None = None) -> None:
        super().__init__(detail)
        self.problem = problem  # None when the service did not answer
        if problem is not None and problem.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            self.exit_code = InvalidInput.exit_code


class Abandoned(RhocacheError):
    code = "abandoned"
