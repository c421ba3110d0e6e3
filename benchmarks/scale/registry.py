"""What a job leaves in the registry: events of each second, and of each shard that has ended."""

import tempfile
from pathlib import Path

from benchmarks.scale.driver import row
from rhocache_schemas.cache.documents import Progress, ShardOutcome
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.reference import ReferenceSpec
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database, parse_url
from rhocache_service.scheduling.progress import events_between

SECONDS = 200  # of a job


def bytes_of_events(in_progress: int, ended_a_second: int) -> float:
    """Bytes of SQLite a second."""
    names = [row(number).name for number in range(in_progress)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "registry.db")
        registry = Registry(open_database(parse_url(f"sqlite:///{path}")))
        reference = ReferenceSpec(model="local-dir:/nothing")
        spec = ScoreSpec(dataset="d", output="o", reference=reference, metadata={})
        job = registry.advance(registry.add(spec), JobState.QUEUED, shards=1)
        job = registry.advance(job, JobState.IN_PROGRESS)
        before, sizes = None, list[int]()
        for second in range(2 * SECONDS):
            ended = (second + 1) * ended_a_second
            now = Progress(
                phase="encoding", shards_total=100_000, shards_committed=ended, shards_ended=ended,
                shards_in_progress=names, updated_at=second, started_at=1.0, limited_by="image",
                recent=[ShardOutcome(shard=row(ended - n).name, rows=10_000, seconds=20.0,
                                     encoder="node-0001:12345") for n in range(ended_a_second)],
            )  # fmt: skip
            dump = now.model_dump(mode="json", exclude={"recent"})
            registry.note(job, events_between(before, now), progress=dump)
            before = now
            if second % SECONDS == SECONDS - 1:
                registry.engine.dispose()  # what is in the write-ahead log goes into the file
                sizes.append(sum(each.stat().st_size for each in Path(folder).iterdir()))
        registry.close()
    return (sizes[1] - sizes[0]) / SECONDS
