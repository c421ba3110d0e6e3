"""A dataset of one shard and a committed cache of it, made without workers."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from rhocache_schemas import index, layout, shard_file, storage
from rhocache_schemas.fingerprint import Fingerprint
from rhocache_schemas.job import JobSpec, JobState
from rhocache_schemas.pairs import hash_caption, hash_image
from rhocache_schemas.records import Manifest, Progress
from rhocache_service.database import JobRow
from rhocache_service.registry import Registry

SHARD = "00000.tar"
FINGERPRINT = Fingerprint(
    weights_sha256="0" * 64,
    architecture={},
    preprocessing={},
    tokenizer={},
    precision="fp32",
    dtype="float16",
)


def make_cache(root: Path, captions: dict[str, str], missing: str = "") -> JobSpec:
    """Pairs of these keys and captions, of ascending similarity; ``missing`` has no picture."""
    spec = JobSpec.model_validate(
        {
            "dataset": f"{root}/dataset",
            "output": f"{root}/cache",
            "reference": {"model": f"local-dir:{root}/model"},
        }
    )
    images = {key: picture(number) for number, key in enumerate(captions)}
    (root / "dataset").mkdir(parents=True)
    with tarfile.open(root / "dataset" / SHARD, "w") as tar:
        for key, caption in captions.items():
            members = {"jpg": images[key], "txt": caption.encode()}
            for suffix, data in members.items():
                if (key, suffix) != (missing, "jpg"):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    count = len(captions)
    similarity = np.linspace(-0.5, 0.5, count, dtype=np.float32)
    vectors = np.zeros((count, 1, 4), np.float16)
    vectors[..., 0] = 1
    status = ["ok" if key != missing else "image_missing" for key in captions]
    bad = np.array([each != "ok" for each in status])
    similarity[bad] = np.nan
    rows = shard_file.ShardRows(
        list(captions), status, vectors, vectors, similarity,
        [None if key == missing else hash_image(images[key]) for key in captions],
        [hash_caption(caption) for caption in captions.values()],
    )  # fmt: skip
    data = shard_file.encode(rows, FINGERPRINT.digest, "1" * 64)
    storage.write_atomic(layout.shard_file(spec.output, SHARD), data)
    failed = int(bad.sum())
    entry = index.IndexRow(
        SHARD, count, count - failed, failed, len(data), 0, 0, "1" * 64, "2" * 64,
        hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    listed = index.encode([entry])
    storage.write_atomic(layout.index_file(spec.output), listed)
    manifest = Manifest(
        fingerprint=FINGERPRINT,
        fingerprint_sha256=FINGERPRINT.digest,
        reference=spec.reference,
        dataset=spec.dataset,
        rows=count,
        ok=count - failed,
        failed=failed,
        failed_by_code={"image_missing": failed} if failed else {},
        shards=1,
        failed_shards={},
        dimension=4,
        logit_scale=100.0,
        index_sha256=hashlib.sha256(listed).hexdigest(),
        batch_size=4,
        software={},
        created_at=0.0,
    )
    storage.write_atomic(layout.manifest_file(spec.output), manifest.to_json())
    return spec


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (40 * number % 256, 120, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def completed(registry: Registry, spec: JobSpec) -> JobRow:
    """A job that has committed that cache."""
    row = registry.advance(registry.add(spec), JobState.QUEUED, shards=1)
    row = registry.advance(row, JobState.IN_PROGRESS)
    codes = Manifest.read(layout.manifest_file(spec.output)).failed_by_code
    progress = Progress(
        phase="finalizing", shards_total=1, shards_done=1, failed_by_code=codes, updated_at=1.0
    )
    registry.note(row, progress=progress.model_dump(mode="json"))
    row = registry.advance(row, JobState.FINALIZING)
    registry.caches.add(spec.output, FINGERPRINT.digest, row.id, at=1)
    return registry.advance(row, JobState.COMPLETED, fingerprint=FINGERPRINT.digest)
