from counting.spec import CountSpec
from rhocache_schemas import storage
from rhocache_schemas.api import Validation
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import JobError
from rhocache_schemas.job.allowed_roots import open_allowed
from rhocache_service.jobs.kinds import JobKind
from rhocache_service.registry.jobs import Registry


class Count(JobKind[CountSpec]):
    def preview(self, spec: CountSpec, roots: list[str], registry: Registry) -> Validation:
        shards = open_allowed(Source(dataset=spec.dataset), roots=roots).shards
        size = sum(shard.size for shard in shards)
        return Validation(shards=len(shards), shards_committed=0, source_bytes=size)

    def validate(self, spec: CountSpec, roots: list[str]) -> int:
        return len(open_allowed(Source(dataset=spec.dataset), roots=roots).shards)

    def awaits(self, spec: CountSpec) -> str | None:
        return spec.beside

    def outcome(self, spec: CountSpec) -> None:
        if not storage.exists(storage.join(spec.output, "count.json")):
            raise JobError(f"nothing was counted in {spec.output}")


KIND = Count()
