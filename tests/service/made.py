"""A dataset of one shard and a committed cache of it, made without workers."""

import io
import tarfile
from pathlib import Path

import numpy as np
from caches import FINGERPRINT, commit
from PIL import Image

from rhocache_schemas import layout
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Manifest, Progress
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

SHARD = "00000.tar"


def make_cache(root: Path, captions: dict[str, str], missing: str = "") -> ScoreSpec:
    """Pairs of these keys and captions, of ascending similarity; ``missing`` has no picture."""
    spec = ScoreSpec.model_validate(
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
    failed = int(bad.sum())
    codes = {"image_missing": failed} if failed else {}
    commit(
        spec.output,
        {SHARD: rows},
        dataset=spec.dataset,
        reference=spec.reference,
        failed_by_code=codes,
    )
    return spec


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (40 * number % 256, 120, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def completed(registry: Registry, spec: ScoreSpec) -> JobRow:
    """A job that has committed that cache."""
    row = registry.advance(registry.add(spec), JobState.QUEUED, shards=1)
    row = registry.advance(row, JobState.IN_PROGRESS)
    codes = Manifest.read(layout.manifest_file(spec.output)).failed_by_code
    progress = Progress(
        phase="finalizing", shards_total=1, shards_committed=1, failed_by_code=codes, updated_at=1.0
    )
    registry.note(row, progress=progress.model_dump(mode="json"))
    row = registry.advance(row, JobState.FINALIZING)
    registry.caches.add(spec.output, FINGERPRINT.digest, row.id, at=1)
    return registry.advance(row, JobState.COMPLETED, fingerprint=FINGERPRINT.digest)
