"""How the service treats jobs that choose pairs."""

from rhocache_schemas.job.kinds.select import SelectSpec
from rhocache_service.jobs.over_cache import CacheKind


class _Select(CacheKind[SelectSpec]):
    def check(self, spec: SelectSpec) -> None:
        """Refuse rules that lack what they need, too."""
        spec.check_rules()
        super().check(spec)


KIND = _Select(SelectSpec)
