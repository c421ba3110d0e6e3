import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rhocache_schemas.errors import CacheCorrupt, CacheNotFound
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.inspect import inspect


def test_a_complete_cache(scored: ScoreSpec) -> None:
    found = inspect(scored.output)
    files = sorted(Path(scored.output, "shards").glob("*.parquet"))
    assert found.complete
    assert (found.shards, found.rows, found.ok) == (3, 24, 23)
    assert found.failed_by_code == {"image_undecodable": 1}
    assert found.failed_shards == {}
    assert found.bytes == sum(file.stat().st_size for file in files)
    assert found.dimension == 32
    similarity = np.concatenate([pq.read_table(f)["similarity"].drop_null() for f in files])
    assert found.similarity_quantiles["0.5"] == pytest.approx(np.median(similarity), abs=5e-4)
    assert found.similarity_quantiles["1"] == similarity.max()
    assert found.model == scored.reference.model
    assert found.phase == "completed"


def test_a_cache_that_is_not_complete(copied: ScoreSpec) -> None:
    Path(copied.output, "manifest.json").unlink()
    Path(copied.output, "shards", "00001.tar.parquet").unlink()
    failures = Path(copied.output, "failures")
    failures.mkdir()
    (failures / "00001.tar.json").write_text(
        '{"shard": "00001.tar", "code": "tar_truncated", "detail": "cut", "failed_at": 0}'
    )
    found = inspect(copied.output)
    assert not found.complete
    assert (found.shards, found.rows, found.ok) == (2, 16, 16)
    assert found.failed_shards == {"00001.tar": "tar_truncated"}
    assert found.dimension is None


def test_what_can_not_be_inspected(copied: ScoreSpec, tmp_path: Path) -> None:
    with pytest.raises(CacheNotFound, match=r"plan\.json"):
        inspect(str(tmp_path / "nothing"))
    Path(copied.output, "manifest.json").unlink()  # else its summary tells all
    Path(copied.output, "shards", "00001.tar.parquet").write_bytes(b"PAR1")
    with pytest.raises(CacheCorrupt, match="00001"):
        inspect(copied.output)


def test_neither_torch_nor_ray_is_needed(scored: ScoreSpec) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'open_clip', 'ray']))\n"
        "from rhocache_workers.maintain.inspect import inspect\n"
        "from rhocache_workers.maintain.verify import verify\n"
        "inspect(sys.argv[1])\n"
        "report = verify(sys.argv[1], sys.argv[2])\n"
        "assert report.ok and report.pairs_compared == 24, report\n"
        "assert 'no pair was encoded again' in report.notes[0]\n"
    )
    arguments = [sys.executable, "-c", script, scored.output, scored.dataset]
    subprocess.run(arguments, check=True)
