"""How the service treats jobs of the kind prompts."""

from rhocache_schemas.job.kinds.prompts import PromptsSpec
from rhocache_service.jobs.over_cache import CacheKind

KIND = CacheKind(PromptsSpec)
