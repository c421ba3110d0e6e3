"""Which requests a run makes of an object store: of each shard, each second, and once.

The encoder embeds nothing, and reads and writes a shard as the real one does: a tar of real size as
a stream, and a shard file of as many pairs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyarrow import fs

from benchmarks.scale.store import noting_store
from rhocache_schemas import layout, storage
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.dataset.formats.webdataset import open_shard
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.encoder import _READ_BYTES  # pyright: ignore[reportPrivateUsage]
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress, committed_shard
from tests.caches import FINGERPRINT

DIMENSION = 512
Requests = dict[tuple[str, str], float]  # (method, kind of file) -> how many


@dataclass(frozen=True, slots=True)
class Counted:
    a_shard: Requests
    a_second: Requests
    connections: float  # a shard
    cache_bytes: float  # of a shard's file


class PassingEncoder:
    """In the encoder's place: it reads a shard through and writes PAIRS rows for it."""

    def __init__(self, spec: ScoreSpec, threads: int) -> None:  # noqa: ARG002
        self._cache = spec.output

    def load(self, batch_sizes: dict[str, int]) -> Iterator[Description]:  # noqa: ARG002
        pairs = int(os.environ["SCALE_PAIRS"])
        unit = np.full((pairs, 1, DIMENSION), DIMENSION**-0.5, np.float16)
        keys = [f"{number:09}" for number in range(pairs)]
        hashes = [hash_image(b"x")] * pairs, [hash_caption("x")] * pairs
        rows = ShardRows(keys, [OK] * pairs, unit, unit, np.ones(pairs, np.float32), *hashes)
        self._file = shard_file.encode(rows, FINGERPRINT.digest, "1" * 64)
        self._totals, _ = shard_file.sum_up(self._file, "the file of every shard")
        yield Description(FINGERPRINT, DIMENSION, 1.0, None, "cpu", 1, {})

    def encode(self, shard: Shard, *, isolate: bool) -> Iterator[ShardInProgress | CommittedShard]:  # noqa: ARG002
        yield ShardInProgress(shard.name, 1)
        with open_shard(shard, _READ_BYTES) as stream:
            while stream.read(1 << 20):
                pass
        storage.write_atomic(layout.shard_file(self._cache, shard.name), self._file)
        yield committed_shard(shard, self._totals, "1" * 64)


def run(dataset: str, output: str) -> None:
    """Score in this process, which knows the store by its environment."""
    from rhocache_workers.cluster import actor_pool
    from rhocache_workers.run.driver import score

    actor_pool.EncoderActor = PassingEncoder  # pyright: ignore
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")  # fmt: skip
    reference = ReferenceSpec(model="local-dir:/nothing")
    spec = ScoreSpec(dataset=dataset, output=output, reference=reference, metadata={})
    started = time.perf_counter()
    score(spec)
    print(json.dumps(time.perf_counter() - started))


def count(pairs: int, pair_bytes: int, shards: tuple[int, int] = (4, 16)) -> Counted:
    """Compare two runs: what the larger makes more of is a shard's; the rest are seconds'."""
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as name,
        noting_store(Path(name)) as (notes, endpoint),
    ):
        there = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
        data = os.urandom(pairs * pair_bytes)
        found: list[tuple[Counter[tuple[str, str]], int, float]] = []
        for number in shards:
            for shard in range(number):
                with there.open_output_stream(f"data/{number}/dataset/{shard:05}.tar") as stream:
                    stream.write(data)
            notes.requests.clear()
            notes.connections = 0
            told = subprocess.run(
                [sys.executable, "-c", "import sys; from benchmarks.scale.requests import run; "
                 "run(*sys.argv[1:])", f"s3://data/{number}/dataset", f"s3://data/{number}/cache"],
                env=os.environ | {"AWS_ENDPOINT_URL": endpoint, "SCALE_PAIRS": str(pairs)},
                check=True, stdout=subprocess.PIPE,
            )  # fmt: skip
            found.append((notes.requests.copy(), notes.connections, json.loads(told.stdout)))
        size = there.get_file_info(f"data/{shards[0]}/cache/shards/00000.tar.parquet").size
    (few, few_connections, _), (many, connections, seconds) = found
    of_shards = {"dataset", "shards"}
    more = shards[1] - shards[0]
    return Counted(
        {key: (many[key] - few[key]) / more for key in many if key[1] in of_shards},
        {key: many[key] / seconds for key in many if key[1] in ("lease", "progress")},
        (connections - few_connections) / more,
        size,
    )
