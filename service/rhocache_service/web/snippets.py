"""What to do with a cache: lines to copy, which run as they stand where the cache lies."""

import json

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.source import TARS


def snippets(uri: str, manifest: Manifest) -> dict[str, str]:
    """Return title -> text."""
    return {
        "Train with this": _train(uri, manifest),
        "Load in Python": (
            "from rhocache_schemas.cache.reader import CacheReader\n\n"
            f"cache = CacheReader.open({uri!r})\n"
            "for shard in cache.index:\n"
            '    pairs = cache.columns(shard, ["key", "status", "similarity"])\n'
            "    print(shard, pairs.num_rows)\n"
        ),
        "Query in DuckDB": f"import duckdb\n\nduckdb.sql({_query(uri)!r}).show()\n",
    }


def _train(uri: str, manifest: Manifest) -> str:
    """A configuration in a shell's here-document; JSON's strings are YAML's."""
    data = manifest.source.model_dump(mode="json", exclude_none=True)
    if manifest.format != TARS:
        data["kind"] = manifest.format
    if manifest.failed:
        data["on_missing"] = "skip"
    return (
        "cat > steered.yaml <<'END'\n"
        "output: runs/steered\n"
        "model: ViT-B-32\n"
        "objective: drrho\n"
        f"data: {json.dumps(data)}\n"
        f"cache: {json.dumps(uri)}\n"
        "END\n"
        "rhocache train steered.yaml\n"
    )


def _query(uri: str) -> str:
    files = f"{uri}/shards/**/*.parquet".replace("'", "''")
    return (
        f"select key, similarity from '{files}' "  # noqa: S608 (for its reader's own shell)
        "where status = 'ok' order by similarity limit 10"
    )
