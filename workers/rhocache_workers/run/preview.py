"""What a run would do, without doing any of it."""

from dataclasses import dataclass

from rhocache_schemas.cache.reusable import open_reusable
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.paths import absolute
from rhocache_workers.reference.names import check_reference
from rhocache_workers.run.resume import choose_shards, resume, with_format
from rhocache_workers.run.standing import Standing


@dataclass(frozen=True, slots=True)
class Preview:
    """``dataclasses.asdict`` is the ``--json`` object."""

    cache: str
    dataset: str
    model: str
    shards: int  # that the job asks for
    done_shards: int  # of them, those that the cache has
    bytes: int  # of the others
    dropped_shards: int  # that would leave the cache, as was asked


def preview(spec: ScoreSpec) -> Preview:
    """Look at a dataset and the cache as ``score`` would.

    Raises what ``score`` raises before it starts Ray or loads the reference; whether the cache was
    made by the same reference, loading it alone can tell.
    """
    spec = absolute(spec)
    check_reference(spec.reference)
    spec = with_format(spec, None)
    shards = choose_shards(spec, None, None)
    standing = Standing.of(spec.output, rebuild_index=spec.replace)
    left = resume(spec, shards, standing, None, redo=False)
    if standing.fingerprint is not None and not spec.replace:
        standing.fingerprint.check_options(spec)
    if left.todo:
        open_reusable(spec)
    return Preview(
        cache=spec.output,
        dataset=spec.dataset,
        model=spec.reference.model,
        shards=len(shards),
        done_shards=len(shards) - len(left.todo),
        bytes=sum(shard.size for shard in left.todo),
        dropped_shards=len(left.dropped),
    )
