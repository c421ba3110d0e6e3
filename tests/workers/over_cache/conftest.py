"""A committed cache of some of the icons, scored by the reference of the examples."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rhocache_schemas import layout
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of 300 pairs; the others of their shard are beyond the limit, and not ok."""
    spec = ScoreSpec.model_validate(
        {
            "dataset": str(EXAMPLES / "icons" / "00000.tar"),
            "output": str(tmp_path_factory.mktemp("icons") / "cache"),
            "reference": {"model": f"local-dir:{EXAMPLES / 'reference'}"},
            "limit": 300,
        }
    )
    score(spec, here=True)
    return spec.output


@pytest.fixture(scope="session")
def embeddings(icons: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of the images and texts of all usable pairs, [n, d] each, in the cache's order."""
    cache = CacheReader.open(icons)
    rows = [
        shard_file.decode(cache.shard_bytes(name), layout.shard_file(icons, name))[0]
        for name in cache.index
    ]
    image = np.concatenate([each.image[each.ok, 0] for each in rows]).astype(float)
    text = np.concatenate([each.text[each.ok, 0] for each in rows]).astype(float)
    return image, text
