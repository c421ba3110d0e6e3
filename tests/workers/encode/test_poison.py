"""An image that takes its decoder's process with it, in a real run of its own."""

import os
import subprocess
import sys
from pathlib import Path

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.job.kinds.score import ScoreSpec

# A decoder with a fault in it, for every process of the run.
SITE = """
import os
from PIL import Image

def open_or_die(file, *args, open=Image.open, **options):
    if file.getvalue().endswith(b"POISON"):
        os.abort()
    return open(file, *args, **options)

Image.open = open_or_die
"""
DRIVER = """
import sys
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score
score(ScoreSpec.model_validate_json(sys.argv[1]))
"""


def test_it_costs_its_own_row_alone(
    spec: ScoreSpec, tmp_path: Path, pictures: list, write_tar, scored: ScoreSpec
) -> None:
    pairs = [dict(members) for members in pictures[8:16]]
    poisoned = next(name for name in pairs[3] if name.endswith(".jpg"))
    pairs[3][poisoned] += b"POISON"
    write_tar(Path(spec.dataset) / "00001.tar", pairs)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    spec = spec.model_copy(update={"dtype": "float16"})
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, spec.model_dump_json()],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    manifest = Manifest.read(f"{spec.output}/manifest.json")
    assert (manifest.ok, manifest.failed_by_code) == (23, {"image_undecodable": 1})
    assert manifest.failed_shards == {}
    for name in ("00000.tar", "00002.tar"):
        file = f"shards/{name}.parquet"
        assert Path(spec.output, file).read_bytes() == Path(scored.output, file).read_bytes()
    data = Path(spec.output, "shards", "00001.tar.parquet").read_bytes()
    assert (
        shard_file.decode(data, "it")[0].status == ["ok"] * 3 + ["image_undecodable"] + ["ok"] * 4
    )
