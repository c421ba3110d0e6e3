"""The driver of a job for nearest pairs and near-duplicates."""

from rhocache_workers.over_cache.driver import run_of
from rhocache_workers.over_cache.neighbours.work import Neighbours

WORK = Neighbours
run = run_of(WORK)
