"""A dataset and a committed cache of it, made without workers."""

import io
import tarfile
from pathlib import Path

import numpy as np
from caches import FINGERPRINT, commit
from PIL import Image

from rhocache_schemas import layout
from rhocache_schemas.cache.documents import Manifest, Progress
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

SHARD = "00000.tar"


def make_cache(
    root: Path, captions: dict[str, str], missing: str = "", shards: int = 1
) -> ScoreSpec:
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
    parts: dict[str, ShardRows] = {}
    values = np.linspace(-0.5, 0.5, len(captions), dtype=np.float32)
    for number, (keys, similarity) in enumerate(
        zip(
            np.array_split(list(captions), shards),
            np.array_split(values, shards),
            strict=True,
        )
    ):
        here = {str(key): captions[key] for key in keys}
        name = f"{number:05}.tar"
        write_shard(root / "dataset" / name, here, images, missing)
        parts[name] = rows_of(here, images, missing, similarity)
    codes = {"image_missing": 1} if missing in captions else {}
    commit(spec.output, parts, dataset=spec.dataset, reference=spec.reference, failed_by_code=codes)
    return spec


def write_shard(
    path: Path, captions: dict[str, str], images: dict[str, bytes], missing: str
) -> None:
    with tarfile.open(path, "w") as tar:
        for key, caption in captions.items():
            members = {"jpg": images[key], "txt": caption.encode()}
            for suffix, data in members.items():
                if (key, suffix) != (missing, "jpg"):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def rows_of(
    captions: dict[str, str], images: dict[str, bytes], missing: str, similarity: np.ndarray
) -> ShardRows:
    vectors = np.zeros((len(captions), 1, 4), np.float16)
    vectors[..., 0] = 1
    bad = np.array([key == missing for key in captions])
    return ShardRows(
        list(captions),
        ["image_missing" if key == missing else "ok" for key in captions],
        vectors,
        vectors,
        np.where(bad, np.float32("nan"), similarity),
        [None if key == missing else hash_image(images[key]) for key in captions],
        [hash_caption(caption) for caption in captions.values()],
    )


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
