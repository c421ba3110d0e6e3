"""The join of a dataset with its cache, against the files that both were made from."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rhocache_schemas.dataset.formats.webdataset import WebDataset
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    FingerprintMismatch,
    MissingPair,
    PairMismatch,
    RowError,
)
from rhocache_trainer import ReferenceCache
from rhocache_trainer.data.join import CachedPairs, JoinedPair, PlainPairs

from ..conftest import PAIRS, SHARDS, MadePair, make_pairs, unit_rows, write_cache, write_tar


def tars(dataset: Path, caption_field: str | None = None) -> WebDataset:
    return WebDataset(Source(dataset=str(dataset), caption_field=caption_field))


def joined(dataset: Path, cache: Path, caption_field: str | None = None, **options) -> CachedPairs:
    opened = ReferenceCache.open(str(cache))
    return CachedPairs(
        tars(dataset, caption_field), opened, {"caption_field": caption_field}, **options
    )


def read(pairs: CachedPairs | PlainPairs) -> list[JoinedPair]:
    return [pairs.load(pair) for shard in pairs.shards for pair in pairs.read(shard)]


def usable(pairs: CachedPairs | PlainPairs) -> tuple[list[JoinedPair], Counter[str]]:
    """The pairs that can be used, and the codes of the others' errors."""
    samples, codes = [], Counter()
    for shard in pairs.shards:
        for pair in pairs.read(shard):
            try:
                samples.append(pairs.load(pair))
            except (MissingPair, PairMismatch, RowError) as error:
                codes[error.code] += 1
    return samples, codes


def test_every_pair_gets_its_own_row(dataset: Path, cache: Path):
    pairs = joined(dataset, cache)
    samples = read(pairs)
    assert pairs.n == pairs.usable == len(samples) == SHARDS * PAIRS
    assert [sample.index for sample in samples] == list(range(SHARDS * PAIRS))
    for sample in samples:
        shard, row = divmod(sample.index, PAIRS)
        made = make_pairs(shard)[row]
        pair = sample.pair
        assert (pair.key, pair.image, pair.caption) == (made.key, made.image, made.caption)
        assert sample.row is not None
        assert np.array_equal(sample.row.image[0], unit_rows(shard, "image")[row])
        assert np.array_equal(sample.row.text[0], unit_rows(shard, "text")[row])


@pytest.mark.parametrize("start", [0, 5, PAIRS])
def test_reading_may_begin_anywhere(dataset: Path, cache: Path, start: int):
    for pairs in (joined(dataset, cache), PlainPairs(tars(dataset))):
        samples = [pairs.load(pair) for pair in pairs.read(pairs.shards[1], start)]
        assert [sample.index for sample in samples] == list(range(PAIRS + start, 2 * PAIRS))


def test_a_dataset_in_another_order_is_joined_by_key(dataset: Path, cache: Path):
    write_tar(dataset / "00000.tar", make_pairs(0)[::-1])
    samples = read(joined(dataset, cache))
    assert [sample.index for sample in samples[:PAIRS]] == list(range(PAIRS))[::-1]


def _change(which: str):
    pairs = make_pairs(1)
    if which == "image":
        pairs[4].image = pairs[5].image
    elif which == "caption":
        pairs[4].caption += "!"
    elif which == "new key":
        pairs[4].key = "new"
    elif which == "no caption":
        pairs[4].caption = " "
    return pairs


CHANGES = [
    ("image", PairMismatch, r"shard 00001\.tar, key 0004: the image is not the one"),
    ("caption", PairMismatch, r"shard 00001\.tar, key 0004: the caption is not the one"),
    ("no caption", PairMismatch, r"shard 00001\.tar, key 0004: .*unusable here \(text_missing\)"),
    ("new key", MissingPair, r"shard 00001\.tar, key new: .* has no row"),
]


@pytest.mark.parametrize(("which", "error", "message"), CHANGES)
def test_a_changed_pair_is_named_and_the_others_are_as_they_were(
    dataset: Path, cache: Path, which, error, message
):
    write_tar(dataset / "00001.tar", _change(which))
    pairs = joined(dataset, cache)
    with pytest.raises(error, match=message):
        read(pairs)
    samples, codes = usable(pairs)
    assert [sample.index for sample in samples] == [
        index for index in range(SHARDS * PAIRS) if index != PAIRS + 4
    ]
    assert codes == {error.code: 1}


def test_a_pair_that_the_reference_could_not_score(dataset: Path, tmp_path: Path):
    cache = write_cache(tmp_path / "failed", {(0, 3): "image_undecodable"})
    pairs = joined(dataset, cache)
    with pytest.raises(MissingPair, match=r"00000\.tar, key 0003.*image_undecodable"):
        read(pairs)
    samples, _ = usable(pairs)
    assert pairs.usable == len(samples) == SHARDS * PAIRS - 1
    assert all(np.isfinite(sample.row.image).all() for sample in samples)


def test_another_dataset(tmp_path: Path, cache: Path):
    write_tar(tmp_path / "other" / "train" / "00000.tar", make_pairs(0))
    for on_missing in ("error", "skip"):  # nothing would be left to train on
        with pytest.raises(CacheIncomplete, match=r"no shard train/00000\.tar"):
            joined(tmp_path / "other", cache, on_missing=on_missing)


def test_a_shard_more_than_the_cache_has(dataset: Path, cache: Path):
    write_tar(dataset / "00002.tar", make_pairs(2))
    with pytest.raises(CacheIncomplete, match=r"no shard 00002\.tar"):
        joined(dataset, cache)
    assert len(read(joined(dataset, cache, on_missing="skip"))) == SHARDS * PAIRS


def test_a_cache_whose_files_are_not_all_there(dataset: Path, cache: Path):
    """Known before the first batch, not when the shard's turn comes."""
    file = cache / "shards" / "00001.tar.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CacheCorrupt, match=r"00001\.tar\.parquet has \d+ bytes"):
        joined(dataset, cache)
    file.unlink()
    with pytest.raises(CacheIncomplete, match=r"00001\.tar\.parquet is in the index"):
        joined(dataset, cache)


def test_captions_from_another_place(dataset: Path, cache: Path):
    with pytest.raises(FingerprintMismatch, match="caption_field='colour'"):
        joined(dataset, cache, caption_field="colour")


def test_plain_pairs_are_numbered_by_shard_and_row(dataset: Path):
    write_tar(
        dataset / "00000.tar", [*make_pairs(0)[:5], MadePair("x", make_pairs(0)[5].image, " ")]
    )
    pairs = PlainPairs(tars(dataset))
    assert (pairs.n, pairs.usable) == (6 + PAIRS, 5 + PAIRS)
    samples, codes = usable(pairs)
    assert [sample.index for sample in samples] == [*range(5), *range(6, 6 + PAIRS)]
    assert codes == {"text_missing": 1}
    with pytest.raises(RowError, match=r"shard 00000\.tar, key x: text_missing"):
        read(pairs)
