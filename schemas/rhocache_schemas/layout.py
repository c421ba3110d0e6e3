"""Where things lie in a cache, and in a table that a job over a cache has made."""

from rhocache_schemas.storage import join

PLAN = "plan.json"
PROGRESS = "progress.json"
INDEX = "index.parquet"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
LEASE = "lease.json"
TABLE = "table.json"  # a table's manifest
TABLE_PLAN = "table-plan.json"
DOCUMENTS = (PLAN, PROGRESS, INDEX, SUMMARY, MANIFEST, LEASE)
TABLE_DOCUMENTS = (TABLE_PLAN, PROGRESS, INDEX, TABLE, LEASE)


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


def table_manifest(table: str) -> str:
    return join(table, TABLE)


def table_plan(table: str) -> str:
    return join(table, TABLE_PLAN)


def table_file(table: str, name: str) -> str:
    """A file of a table that is not one of a shard's rows."""
    return join(table, "files", name)
