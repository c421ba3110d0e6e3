"""Training data and their cache in a real object store give what they give on a disk."""

from itertools import islice
from pathlib import Path

import pytest
from made_pairs import rows, write_csv, write_folder, write_parquet
from pyarrow import fs

from ...workers.run.test_s3 import bucket  # noqa: F401 (a fixture)
from ..conftest import PAIRS, SHARDS, make_pairs
from .test_loader import assert_same, make

N = SHARDS * PAIRS


@pytest.fixture
def stored(tmp_path: Path, dataset: Path, cache: Path, bucket: fs.S3FileSystem) -> str:  # noqa: F811
    """A copy of everything below tmp_path."""
    write_parquet(tmp_path / "tables" / "pairs.parquet", rows())
    write_csv(tmp_path / "csv" / "pairs.csv", rows())
    write_folder(tmp_path / "folder", make_pairs(0))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            with bucket.open_output_stream(f"data/train/{path.relative_to(tmp_path)}") as stream:
                stream.write(path.read_bytes())
    return "s3://data/train"


def test_the_same_batches_as_from_a_disk(tmp_path: Path, stored: str):
    for name in ("dataset", "tables", "csv/pairs.csv"):
        local = make(tmp_path / name, tmp_path / "cache")
        remote = make(f"{stored}/{name}", f"{stored}/cache")
        assert_same(list(islice(local, N // 2)), list(islice(remote, N // 2)))
    local, remote = make(tmp_path / "folder"), make(f"{stored}/folder")
    for one, other in islice(zip(local, remote, strict=True), PAIRS // 2):
        assert one.image.equal(other.image)
