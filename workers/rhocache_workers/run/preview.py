"""What a run would do, without doing any of it."""

from dataclasses import dataclass

from rhocache_schemas.cache.reusable import open_reusable
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.apart import check_apart
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.paths import absolute
from rhocache_workers.reference.names import check_reference
from rhocache_workers.run.resume import choose_shards, resume, with_format
from rhocache_workers.run.standing import Standing


@dataclass(frozen=True, slots=True)
class Preview:
    """``dataclasses.asdict`` is the ``--json`` object."""

    cache: str
    also: list[str]  # caches of the job's other references
    dataset: str
    model: str
    shards: int  # that the job asks for
    done_shards: int  # of them, those that every cache has
    bytes: int  # of the others
    dropped_shards: int  # that would leave the caches, as was asked


def preview(spec: ScoreSpec) -> Preview:
    """Look at a dataset and the cache as ``score`` would.

    Raises what ``score`` raises before it starts Ray or loads the reference; whether the cache was
    made by the same reference, loading it alone can tell.
    """
    spec = absolute(spec)
    check_apart(spec)
    for each in spec.each:
        check_reference(each.reference)
    spec = with_format(spec, None)
    shards = choose_shards(spec, None, None)
    todo: dict[str, Shard] = {}  # by name, what any of its caches lacks
    dropped = 0
    for each in spec.each:
        standing = Standing.of(each.output, rebuild_index=spec.replace)
        left = resume(each, shards, standing, None, redo=False)
        if standing.fingerprint is not None and not spec.replace:
            standing.fingerprint.check_options(each)
        todo |= {shard.name: shard for shard in left.todo}
        dropped += len(left.dropped)
    if todo:
        open_reusable(spec)
    return Preview(
        cache=spec.output,
        also=spec.outputs[1:],
        dataset=spec.dataset,
        model=spec.reference.model,
        shards=len(shards),
        done_shards=len(shards) - len(todo),
        bytes=sum(shard.size for shard in todo.values()),
        dropped_shards=dropped,
    )
