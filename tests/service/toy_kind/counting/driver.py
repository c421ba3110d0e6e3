import json

from counting.spec import CountSpec
from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import JobError
from rhocache_schemas.job.allowed_roots import check_job, open_allowed
from rhocache_schemas.job.kinds import JobOrder
from rhocache_workers.run.progress import ProgressLog, telling


def run(spec: CountSpec, order: JobOrder) -> str:
    with telling(ProgressLog(spec.output, order.job, None)):
        check_job(spec, order.roots)
        pairs = [
            pair
            for shard in open_allowed(Source(dataset=spec.dataset), roots=order.roots).shards
            for pair in ShardReader(shard)
            if pair.key.startswith(spec.prefix or "")
        ]
        units = pairs if spec.unit == "pairs" else {pair.caption for pair in pairs}
        if len(units) < spec.at_least:
            raise JobError(f"{len(units)} {spec.unit} are fewer than {spec.at_least}")
        found = {"count": len(units)}
        if spec.beside is not None:
            found["rows"] = Manifest.read(layout.manifest_file(spec.beside)).rows
        uri = storage.join(spec.output, "count.json")
        storage.write_atomic(uri, json.dumps(found).encode())
    return f"{found['count']} {spec.unit}"
