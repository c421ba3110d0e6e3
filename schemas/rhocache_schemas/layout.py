"""Where things lie in a cache."""

from rhocache_schemas.storage import join

PLAN = "plan.json"
PROGRESS = "progress.json"
INDEX = "index.parquet"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
LEASE = "lease.json"
DOCUMENTS = (PLAN, PROGRESS, INDEX, SUMMARY, MANIFEST, LEASE)


def shard_file(cache: str, shard: str) -> str:
    """The Parquet file of the dataset shard called ``shard`` (its path under the dataset)."""
    return join(cache, "shards", f"{shard}.parquet")


def failure_file(cache: str, shard: str) -> str:
    return join(cache, "failures", f"{shard}.json")


def segment_file(cache: str, number: int) -> str:
    """Notes of shards that a run has committed, while the cache has no index of them."""
    return join(cache, "segments", f"{number:06}.parquet")


def plan_file(cache: str) -> str:
    return join(cache, PLAN)


def progress_file(cache: str) -> str:
    return join(cache, PROGRESS)


def index_file(cache: str) -> str:
    return join(cache, INDEX)


def summary_file(cache: str) -> str:
    return join(cache, SUMMARY)


def manifest_file(cache: str) -> str:
    return join(cache, MANIFEST)


def lease_file(cache: str) -> str:
    return join(cache, LEASE)
