"""How the service treats jobs of each kind: modules with a ``KIND``, which is a JobKind."""

from typing import Any

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.kinds import installed
from rhocache_schemas.job.spec import JobSpec
from rhocache_service.jobs.kind import JobKind

_KINDS = installed(__name__, "KIND")


def kind_of(spec: JobSpec) -> JobKind[Any]:
    """Raises InvalidInput for a kind that is not installed here."""
    if spec.kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise InvalidInput(f"this service has no job kind {spec.kind!r}, only {known}")
    return _KINDS[spec.kind].load()
