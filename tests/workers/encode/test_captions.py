"""Several captions of a pair: what stands in its row, and where a row is taken from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from rhocache_schemas import layout
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.errors import FingerprintMismatch
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import Dtype
from rhocache_workers.maintain.convert import convert
from rhocache_workers.maintain.inspect import inspect
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run.driver import score

Members = dict[str, bytes]
# By the number of a pair modulo 4: how many captions, of which some are those of other pairs.
COUNTS = [3, 1, 2, 5]


def texts_of(number: int) -> list[str]:
    return [f"a picture of {(number + place) % 9}" for place in range(COUNTS[number % 4])]


@pytest.fixture(scope="module")
def captioned(pictures: list[Members], with_texts: Callable[..., Members]) -> list[Members]:
    return [with_texts(each, texts_of(number)) for number, each in enumerate(pictures[:12])]


@pytest.fixture
def job(job_of: Callable[..., ScoreSpec], captioned: list[Members]) -> Callable[..., ScoreSpec]:
    def made(captions: int | None = 3, **fields: Any) -> ScoreSpec:
        asked = {"caption_field": "texts", "captions": captions, "dtype": "float32"}
        return job_of("captions", captioned, **asked | fields)

    return made


def rows(cache: str) -> list[ShardRows]:
    names = [f"{number:05}.tar" for number in range(3)]
    return [shard_file.decode(CacheReader.open(cache).shard_bytes(n), n)[0] for n in names]


def test_a_row_has_each_caption_as_the_reference_itself_embeds_it(
    job: Callable[..., ScoreSpec], reference_folder: Path
) -> None:
    spec = job()
    score(spec, here=True)
    name = f"local-dir:{reference_folder}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    number = 0
    for part in rows(spec.output):
        for row in range(len(part.keys)):
            texts = texts_of(number)[:3]
            with torch.no_grad():
                wanted = model.eval().encode_text(tokenizer(texts), normalize=True).numpy()
            assert part.captions is not None
            assert part.captions[row] == len(texts)
            every = [wanted[place % len(texts)] for place in range(3)]
            np.testing.assert_allclose(part.text[row], every, atol=2e-6)
            similarity = part.image[row, 0] @ wanted[0]
            np.testing.assert_allclose(part.similarity[row], similarity, atol=2e-6)
            number += 1
    assert number == 12
    found = inspect(spec.output)
    assert (found.views, found.captions) == (1, 3)
    report = verify(spec.output, dataset=spec.dataset, sample=12)
    assert (report.findings, report.pairs_encoded_again) == ([], 12)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_rows_with_the_same_captions_are_reused(
    dtype: Dtype, job: Callable[..., ScoreSpec], tmp_path: Path
) -> None:
    """Of a cache with two of each, those that have no third."""
    two, whole = job(2, dtype=dtype), job(3, dtype=dtype)
    score(two, here=True)
    score(whole, here=True)
    again = whole.model_copy(update={"output": str(tmp_path / "again"), "reuse": [two.output]})
    summary = score(again, here=True)
    assert summary.reused_pairs == sum(COUNTS[number % 4] <= 2 for number in range(12))
    for once, reused in zip(rows(whole.output), rows(again.output), strict=True):
        np.testing.assert_array_equal(once.captions, reused.captions)
        np.testing.assert_allclose(once.text, reused.text, atol=1e-6 if dtype != "int8" else 2e-3)
        own = {"keys", "status", "caption_hash", "image_hash"}
        assert all(getattr(once, name) == getattr(reused, name) for name in own)


def test_a_cache_of_others_keeps_them(job: Callable[..., ScoreSpec], tmp_path: Path) -> None:
    spec = job()
    score(spec, here=True)
    convert(spec.output, "float16", str(tmp_path / "half"))
    for before, after in zip(rows(spec.output), rows(str(tmp_path / "half")), strict=True):
        np.testing.assert_array_equal(before.captions, after.captions)
        np.testing.assert_array_equal(before.text.astype(np.float16), after.text)
    own, other = (CacheReader.open(place).manifest for place in (spec.output, f"{tmp_path}/half"))
    assert (own.source, own.format) == (other.source, other.format)


def test_one_caption_is_the_cache_that_always_was(job: Callable[..., ScoreSpec]) -> None:
    one, never = job(1), job(None)
    score(one, here=True)
    score(never, here=True)
    for name in ("00000.tar", "00001.tar", "00002.tar"):
        files = [Path(layout.shard_file(each.output, name)).read_bytes() for each in (one, never)]
        assert files[0] == files[1]


def test_a_cache_with_others_is_another(job: Callable[..., ScoreSpec]) -> None:
    spec = job(2)
    score(spec, here=True)
    with pytest.raises(FingerprintMismatch, match=r"captions \(cache: 2, now: 3\)"):
        score(spec.model_copy(update={"captions": 3}), here=True)
