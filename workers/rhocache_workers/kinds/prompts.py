"""The driver of a job of the kind prompts."""

from rhocache_workers.over_cache.driver import run_of
from rhocache_workers.over_cache.prompts import Prompts

WORK = Prompts
run = run_of(WORK)
