from counting.spec import CountSpec
from rhocache_schemas import storage
from rhocache_schemas.api import Validation
from rhocache_schemas.errors import JobError
from rhocache_schemas.job.allowed_roots import allowed_shards
from rhocache_service.jobs.kinds import JobKind
from rhocache_service.registry.jobs import Registry


class Count(JobKind[CountSpec]):
    def preview(self, spec: CountSpec, roots: list[str], registry: Registry) -> Validation:
        shards = allowed_shards(spec.dataset, None, roots)
        size = sum(shard.size for shard in shards)
        return Validation(shards=len(shards), shards_committed=0, source_bytes=size)

    def validate(self, spec: CountSpec, roots: list[str]) -> int:
        return len(allowed_shards(spec.dataset, None, roots))

    def awaits(self, spec: CountSpec) -> str | None:
        return spec.beside

    def outcome(self, spec: CountSpec) -> None:
        if not storage.exists(storage.join(spec.output, "count.json")):
            raise JobError(f"nothing was counted in {spec.output}")


KIND = Count()
