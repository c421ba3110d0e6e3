"""The driver of a job of the kind classify."""

from rhocache_workers.over_cache.classify import Classify
from rhocache_workers.over_cache.driver import run_of

WORK = Classify
run = run_of(WORK)
