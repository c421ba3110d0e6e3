"""Pairs that are joined with several caches, each of another reference."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import FINGERPRINT
from made_pairs import N, rows, write_parquet

from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    DatasetMismatch,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
    PairMismatch,
    RhocacheError,
)
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.dataset import Example, collate
from rhocache_trainer.data.join import JoinedPair, PairSource
from rhocache_trainer.data.open import open_pairs
from rhocache_trainer.loss.references import ReferencesConfig

from ..conftest import (
    PAIRS,
    SHARDS,
    MadePair,
    make_pairs,
    unit_rows,
    write_cache,
    write_tar,
)


@pytest.fixture(params=["tars", "parquet"])
def location(request: pytest.FixtureRequest, dataset: Path, tmp_path: Path) -> str:
    if request.param == "tars":
        return str(dataset)
    return str(write_parquet(tmp_path / "pairs.parquet", rows()))


def read(pairs: PairSource) -> list[JoinedPair]:
    return [pairs.load(pair) for shard in pairs.shards for pair in pairs.read(shard)]


def test_a_pair_has_the_rows_of_all(location: str, caches: list[str]) -> None:
    pairs = open_pairs(Data(dataset=location), caches)
    samples = read(pairs)
    assert (pairs.n, pairs.usable, len(samples)) == (N, N, N)
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    batch = collate([Example(each, image, torch.zeros(4)) for each in samples], {})
    for place, index in enumerate(batch.index.tolist()):
        shard, row = divmod(index, PAIRS)
        for which, found in (("image", batch.reference_image), ("text", batch.reference_text)):
            expected = [unit_rows(shard, which, width)[row] for width in (6, 4)]
            assert torch.from_numpy(np.concatenate(expected)).float().equal(found[place])  # pyright: ignore
    assert pairs.references is not None
    assert pairs.references.scales == [10.0, 30.0]
    assert pairs.identity != open_pairs(Data(dataset=location), caches[0]).identity


def other(change: str) -> list[MadePair]:
    """The pairs of the second shard that another cache was made from."""
    pairs = make_pairs(1)
    if change == "image":
        pairs[4].image = pairs[5].image
    elif change == "caption":
        pairs[4].caption += "!"
    elif change == "key":
        pairs[4].key = "new"
    elif change == "fewer":
        pairs = pairs[:-1]
    return pairs


DIFFERENCES = [
    ("image", PairMismatch, r"shard 00001\.tar, key 0004: the image is not .*scored in .*/other$"),
    ("caption", PairMismatch, r"shard 00001\.tar, key 0004: the caption .*scored in .*/other$"),
    ("key", MissingPair, r"shard 00001\.tar, key 0004: .*/other has no row for this pair"),
    ("fewer", DatasetMismatch, r"other has 11 rows of shard 00001\.tar, and .*/cache 12"),
    ("failed", MissingPair, r"key 0004: the reference of .*/other could not score it \(image_und"),
]


@pytest.mark.parametrize(("change", "error", "message"), DIFFERENCES)
def test_a_cache_of_other_pairs_is_named(
    location: str,
    cache: Path,
    tmp_path: Path,
    change: str,
    error: type[RhocacheError],
    message: str,
) -> None:
    failed = {(1, 4): "image_undecodable"} if change == "failed" else None
    made = write_cache(
        tmp_path / "other",
        failed,
        pairs_of=lambda shard: other(change) if shard else make_pairs(0),
        dimension=4,
    )
    both = [str(cache), str(made)]
    with pytest.raises(error, match=message):
        read(open_pairs(Data(dataset=location), both))
    skipping = open_pairs(Data(dataset=location, on_missing="skip"), both)
    lost = 0
    for shard in skipping.shards:
        for pair in skipping.read(shard):
            try:
                skipping.load(pair)
            except (MissingPair, PairMismatch):
                lost += 1
    assert lost == 1


def test_a_shard_that_one_of_them_lacks(location: str, cache: Path, tmp_path: Path) -> None:
    made = write_cache(tmp_path / "other", pairs_of=lambda s: [] if s else make_pairs(s))
    with pytest.raises(CacheIncomplete, match=r"other has no shard 00001\.tar"):
        open_pairs(Data(dataset=location), [str(cache), str(made)])


def test_a_file_that_is_missing_or_cut(location: str, caches: list[str]) -> None:
    file = Path(caches[1]) / "shards" / "00001.tar.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CacheCorrupt, match=r"other/.*00001\.tar\.parquet has \d+ bytes"):
        open_pairs(Data(dataset=location), caches)


def test_captions_from_another_place(dataset: Path, cache: Path, tmp_path: Path) -> None:
    fingerprint = FINGERPRINT.model_copy(update={"caption_field": "colour"})
    made = write_cache(
        tmp_path / "other",
        dimension=4,
        fingerprint=fingerprint,
        fingerprint_sha256=fingerprint.digest,
    )
    with pytest.raises(FingerprintMismatch, match="other was made with caption_field='colour'"):
        open_pairs(Data(dataset=str(dataset)), [str(cache), str(made)])


def test_a_cache_that_is_given_twice(dataset: Path, cache: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cache, tmp_path / "copy")
    for again in (cache, copy):
        with pytest.raises(InvalidInput, match=rf"names .*/cache and {again}, which are the same"):
            open_pairs(Data(dataset=str(dataset)), [str(cache), str(again)])


def test_weights_of_another_number(dataset: Path, caches: list[str]) -> None:
    with pytest.raises(InvalidInput, match="references: 3 weights for 2 caches"):
        open_pairs(Data(dataset=str(dataset)), caches, ReferencesConfig(weights=(1, 2, 3)))


def test_a_dataset_with_a_shard_more(dataset: Path, caches: list[str]) -> None:
    write_tar(dataset / "00002.tar", make_pairs(2))
    with pytest.raises(CacheIncomplete, match=r"cache has no shard 00002\.tar"):
        open_pairs(Data(dataset=str(dataset)), caches)
    pairs = open_pairs(Data(dataset=str(dataset), on_missing="skip"), caches)
    assert len(read(pairs)) == SHARDS * PAIRS
