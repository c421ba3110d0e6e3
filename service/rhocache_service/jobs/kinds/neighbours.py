"""How the service treats jobs for nearest pairs and near-duplicates."""

from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_service.jobs.over_cache import CacheKind

KIND = CacheKind(NeighboursSpec)
