"""A cache of many shards, for those who read it: the trainer, the join, the service's pages.

Its files are of the real format and few rows, and an index is made of real size for 10**9 pairs,
which is opened and no more. Each reader has a process of its own.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.driver import SHARD
from benchmarks.machine import forget_peak_memory, peak_memory
from benchmarks.scale.driver import row
from rhocache_schemas import layout
from rhocache_schemas.cache import index, shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from tests.caches import FINGERPRINT


@dataclass(frozen=True, slots=True)
class Read:
    what: str
    seconds: float
    cpu: float
    memory: float  # MB that it took more


def make(folder: Path, shards: int, pairs: int, *, files: bool = True, keys: bool = False) -> None:
    """Write a cache, and its dataset where the keys of all shards may be the same."""
    entries, data = list[index.IndexRow](), _file(0, pairs if files else 1)
    for number in range(shards):
        entry = row(number)
        if files:
            data = _file(number * pairs, pairs) if keys else data
            places = [(layout.shard_file(str(folder / "cache"), entry.name), data)]
            places += [] if keys else [(str(folder / "dataset" / entry.name), SHARD)]
            for place, content in places:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                Path(place).write_bytes(content)
        sha256 = hashlib.sha256(data).hexdigest()
        other = [hashlib.sha256(f"{n} {number}".encode()).hexdigest() for n in range(2)]
        entries.append(
            replace(entry, rows=pairs, ok=pairs, bytes=len(data), file_sha256=sha256,
                    source_sha256=other[0], content_sha256=other[1])
        )  # fmt: skip
    listed = index.encode(entries)
    count = pairs * shards
    manifest = Manifest(
        fingerprint=FINGERPRINT, fingerprint_sha256=FINGERPRINT.digest,
        reference=ReferenceSpec(model="local-dir:/gone"), dataset=str(folder / "dataset"),
        rows=count, ok=count, failed=0, failed_by_code={}, shards=shards, failed_shards={},
        dimension=1, logit_scale=10.0, index_sha256=hashlib.sha256(listed).hexdigest(),
        batch_size=8, software={}, created_at=0.0,
    )  # fmt: skip
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    Path(layout.index_file(str(folder / "cache"))).write_bytes(listed)
    Path(layout.manifest_file(str(folder / "cache"))).write_bytes(manifest.to_json())


def _file(first: int, pairs: int) -> bytes:
    ones = np.ones((pairs, 1, 1), np.float16)
    values = np.random.default_rng(first).normal(0.25, 0.05, pairs).astype(np.float32)
    keys = [f"{first + pair:012}" for pair in range(pairs)]
    hashes = [hash_image(b"x")] * pairs, [hash_caption("x")] * pairs
    return shard_file.encode(
        ShardRows(keys, [OK] * pairs, ones, ones, values, *hashes), FINGERPRINT.digest, "1" * 64
    )


def timed(what: str, read: Callable[[], object]) -> None:
    before = forget_peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    kept = read()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps(asdict(Read(what, wall, cpu, peak_memory() - before))), flush=True)
    del kept


def open_it(folder: Path) -> None:
    from rhocache_trainer.cache.reader import ReferenceCache

    timed("ReferenceCache.open", lambda: ReferenceCache.open(str(folder / "cache")))


def join(folder: Path) -> None:
    from rhocache_trainer.cache.key_index import _rows, find_rows  # pyright: ignore
    from rhocache_trainer.cache.reader import ReferenceCache

    cache = ReferenceCache.open(str(folder / "cache"))
    keys = _rows(cache)[0]
    timed("the join of a table's keys", lambda: find_rows(cache, keys))


def read_keys(folder: Path) -> None:
    from rhocache_trainer.cache.key_index import _rows  # pyright: ignore
    from rhocache_trainer.cache.reader import ReferenceCache

    cache = ReferenceCache.open(str(folder / "cache"))
    timed("files looked for by the join of tars", lambda: cache.reader.check_files(cache.shards))
    timed("keys of all shards", lambda: _rows(cache))


def serve(folder: Path) -> None:
    """The service's answers, asked for in this process."""
    from fastapi.testclient import TestClient

    from rhocache_schemas.job.spec import JobState
    from rhocache_service.app import create_app
    from rhocache_service.settings import Settings

    settings = Settings(data_dir=folder, allow_root=[str(folder)], ray_address="http://127.0.0.1:9")
    app = create_app(settings)
    registry = app.state.registry
    spec = ScoreSpec(
        dataset=str(folder / "dataset"), output=str(folder / "cache"),
        reference=ReferenceSpec(model="local-dir:/gone"), metadata={},
    )  # fmt: skip
    made = registry.advance(registry.add(spec), JobState.QUEUED, shards=1)
    registry.caches.add(spec.output, FINGERPRINT.digest, made.id, 1)
    client = TestClient(app, base_url="http://127.0.0.1")
    cache = client.get("/v1/caches").json()["data"][0]["id"]
    for path in (f"/v1/caches/{cache}", f"/v1/caches/{cache}/pairs", f"/caches/{cache}",
                 f"/caches/{cache}?view=highest", f"/v1/caches/{cache}/pairs?key=none",
                 f"/v1/jobs/{made.id}/shards", f"/jobs/{made.id}"):  # fmt: skip
        name = path.replace(cache, "CACHE").replace(made.id, "JOB")
        timed(f"GET {name}", lambda path=path: client.get(path).raise_for_status())


def measure(
    reader: Callable[[Path], None],
    shards: int,
    pairs: int,
    *,
    files: bool = True,
    keys: bool = False,
) -> list[Read]:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), shards, pairs, files=files, keys=keys)
        told = subprocess.run(
            [sys.executable, "-c",
             "import sys; from pathlib import Path; from benchmarks.scale import readers; "
             "getattr(readers, sys.argv[1])(Path(sys.argv[2]))", reader.__name__, folder],
            check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
    return [
        Read(**json.loads(line)) for line in told.stdout.splitlines() if line.startswith(b'{"what')
    ]
