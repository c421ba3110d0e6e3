"""What the driver's steps cost it, one by one: a thousand encoders fit no one machine."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.driver import make_dataset
from benchmarks.scale.simulate import Costs
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.cluster.actor_pool import Crew
from rhocache_workers.cluster.members import Member
from rhocache_workers.cluster.placement import Place
from rhocache_workers.messages import CommittedShard, ShardInProgress
from rhocache_workers.run.progress import ProgressLog
from rhocache_workers.run.segments import _encode  # pyright: ignore[reportPrivateUsage]

STEPS = 200  # of each kind


@dataclass(frozen=True, slots=True)
class Measured:
    wait: float  # seconds, as in Costs
    event: float
    member: float
    shard: float
    memory: float  # bytes of the driver for a shard
    progress: float  # seconds of CPU to make progress.json, of 100,000 shards, 2,000 in progress
    progress_bytes: int
    segment: float  # seconds of CPU for the notes of 500 shards

    def costs(self, latency: float) -> Costs:
        """With a storage that answers each of three requests after ``latency`` seconds."""
        progress, segment = self.progress + 3 * latency, self.segment + 3 * latency
        return Costs(self.wait, self.event, self.shard, self.member, progress, segment)


class _Teller:
    async def idle(self) -> AsyncIterator[int]:
        await asyncio.sleep(3600)
        yield 0

    async def tell(self) -> AsyncIterator[ShardInProgress]:
        for pairs in range(STEPS):
            yield ShardInProgress("0001/0000001.tar", pairs)


def _seconds(step: Callable[[], object], times: int = STEPS) -> float:
    """Of this process's CPU, a step."""
    began = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - began) / times


def _of_ray(refs: int) -> tuple[float, float]:
    """Of a wait for a ref, and of an event."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")  # fmt: skip
    teller: Any = ray.remote(_Teller).options(num_cpus=0, max_concurrency=refs + 1).remote()
    idle = [teller.idle.options(num_returns="streaming").remote() for _ in range(refs)]
    news = teller.tell.options(num_returns="streaming").remote()
    time.sleep(5)
    waits = [*idle, news]
    wait = _seconds(
        lambda: ray.wait(waits, num_returns=len(waits), timeout=0, fetch_local=False), 50
    )
    progress = ProgressLog("/proc/nowhere", None, None)
    progress.begin([], lambda: None)
    event = _seconds(lambda: progress.add(ray.get(next(news))))
    ray.shutdown()
    return wait / refs, event


def _of_a_look(members: int) -> float:
    """At who needs a shard, for each encoder."""
    crew = Crew(_spec("/nowhere"), None, {}, lambda _: None)
    place = Place("node", 1, 0)
    crew._members = [  # pyright: ignore[reportPrivateUsage]
        Member(None, place, None, 0.0, ready=True, holds=2) for _ in range(members)
    ]
    return _seconds(crew._hand_out, 50) / members  # pyright: ignore[reportPrivateUsage]


def _spec(folder: str) -> ScoreSpec:
    reference = ReferenceSpec(model="local-dir:/nothing")
    return ScoreSpec(dataset=folder, output=f"{folder}/cache", reference=reference, metadata={})


def _of_a_shard(few: int, many: int) -> tuple[float, float]:
    """Seconds and bytes of memory, by two runs of one encoder that embeds nothing."""
    found: list[dict[str, Any]] = []
    for shards in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            make_dataset(Path(folder, "dataset"), shards)
            told = subprocess.run(
                [sys.executable, "-m", "benchmarks.driver", "--shards", str(shards),
                 "--run", "nothing", "--folder", folder],
                check=True, stdout=subprocess.PIPE,
            )  # fmt: skip
            found.append(json.loads(told.stdout))
    more = many - few
    return (
        (found[1]["cpu"] - found[0]["cpu"]) / more,
        (found[1]["peak"] - found[0]["peak"]) * 1e6 / more,
    )


def row(number: int) -> IndexRow:
    name = f"{number // 1000:04}/{number:07}.tar"
    return IndexRow(name, 10_000, 10_000, 0, 20_970_000, 3 * 10**8, 1, *[f"{number:064}"] * 3)


def _of_progress(shards: int, in_progress: int) -> tuple[float, int]:
    told: list[Progress] = []
    log = ProgressLog("/proc/nowhere", None, told.append)
    log.plan(Shard(row(number).name, "", 3 * 10**8, 1) for number in range(shards))
    log.begin([CommittedShard(row(n), Counter()) for n in range(500)], lambda: None)
    for number in range(500, 500 + in_progress):
        log.add(ShardInProgress(row(number).name, 5000))
    cost = _seconds(lambda: log._progress(None).to_json(), 20)  # pyright: ignore[reportPrivateUsage]
    return cost, len(log._progress(None).to_json())  # pyright: ignore[reportPrivateUsage]


def measure(few: int = 1000, many: int = 5000) -> Measured:
    wait, event = _of_ray(2000)
    shard, memory = _of_a_shard(few, many)
    progress, size = _of_progress(100_000, 2000)
    shards = [CommittedShard(row(number), Counter()) for number in range(500)]
    segment = _seconds(lambda: _encode(shards, "1" * 64), 20)
    return Measured(wait, event, _of_a_look(1000), shard, memory, progress, size, segment)


if __name__ == "__main__":
    print(json.dumps(asdict(measure())))
