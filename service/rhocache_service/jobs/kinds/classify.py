"""How the service treats jobs of the kind classify."""

from rhocache_schemas.job.kinds.classify import ClassifySpec
from rhocache_service.jobs.over_cache import CacheKind

KIND = CacheKind(ClassifySpec)
