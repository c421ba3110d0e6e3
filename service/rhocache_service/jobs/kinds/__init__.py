"""How the service treats jobs of each kind: modules with a ``KIND``, which is a JobKind."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from rhocache_schemas.api import ShardList, Validation
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.kinds import installed
from rhocache_schemas.job.spec import JobSpec
from rhocache_service.registry.jobs import Registry

Spec = TypeVar("Spec", bound=JobSpec)


class JobKind(ABC, Generic[Spec]):
    """How jobs of a kind are looked at, before they run and afterwards.

    The service has asked already whether the places that a spec names lie under its roots.
    """

    # Fields that change how the job is done and not what comes of it: of two jobs that differ in
    # these alone, at once, one is done.
    how: frozenset[str] = frozenset()
    makes_tables = False  # which expire and are deleted as caches are

    def check(self, spec: Spec) -> None:
        """Refuse a submission at once, as far as names tell. Raises RhocacheError."""

    @abstractmethod
    def preview(self, spec: Spec, roots: list[str], registry: Registry) -> Validation:
        """Tell what the job would do. Raises RhocacheError."""

    @abstractmethod
    def validate(self, spec: Spec, roots: list[str]) -> int:
        """Look into the data before the job is queued; return how many shards it has.

        Raises RhocacheError, and the job fails.
        """

    def awaits(self, spec: Spec) -> str | None:
        """The cache that the job reads. It is not started before that is committed, and fails where
        no job is left that would."""
        return None

    @abstractmethod
    def outcome(self, spec: Spec) -> str | None:
        """After the driver's end: the fingerprint of the cache that it has committed, if it has
        made a cache.

        Raises CacheIncomplete or JobError where there is not what there should be: the job fails.
        """

    def beside(self, spec: Spec) -> dict[str, str]:
        """After the driver's end: the caches that it has committed beside, with their fingerprints.

        Raises as ``outcome`` does.
        """
        return {}

    def retry(self, spec: Spec) -> Spec:
        """What another try of a job at its end is asked to do."""
        return spec

    def shards(self, spec: Spec, limit: int, after: str | None) -> ShardList:
        """A page of what has become of its shards. Raises DatasetError and StorageError."""
        return ShardList(data=[])


_KINDS = installed(__name__, "KIND")


def kind_of(spec: JobSpec) -> JobKind[Any]:
    """Raises InvalidInput for a kind that is not installed here."""
    if spec.kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise InvalidInput(f"this service has no job kind {spec.kind!r}, only {known}")
    return _KINDS[spec.kind].load()
