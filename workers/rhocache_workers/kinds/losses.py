"""The driver of a job for global contrastive losses."""

from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.driver import run_of

WORK = Losses
run = run_of(WORK)
