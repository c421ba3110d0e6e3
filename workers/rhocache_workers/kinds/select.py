"""The driver of a job that chooses pairs."""

from rhocache_workers.over_cache.driver import run_of
from rhocache_workers.over_cache.selection.work import Select

WORK = Select
run = run_of(WORK)
