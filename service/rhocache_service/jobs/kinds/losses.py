"""How the service treats jobs for global contrastive losses."""

from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_service.jobs.over_cache import CacheKind

KIND = CacheKind(LossesSpec)
