"""A cache's reference, evaluated without it, against the reference itself on the same pairs."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from caches import flip_index

from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    DatasetError,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
    PairMismatch,
)
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import Dtype, ReferenceSpec
from rhocache_trainer import EvaluationResult, evaluate, evaluate_cache, write_prompts
from rhocache_workers.run import driver

from ..conftest import COLOURS, PAIRS, SHARDS, MadePair, make_pairs, write_tar

CLASSES = {"class_field": "colour", "templates": "simple"}


def score(dataset: Path, out: Path, reference: Path, dtype: Dtype = "float32") -> None:
    spec = ScoreSpec(
        dataset=str(dataset),
        output=str(out),
        reference=ReferenceSpec(model=f"local-dir:{reference}"),
        dtype=dtype,
        batch_size=8,
        error_budget=1.0,
        metadata={},
    )
    driver.score(spec, here=True)


@dataclass
class Scored:
    """A dataset of two shards, the prompts of its classes, and a cache of each."""

    root: Path
    reference: Path

    @property
    def dataset(self) -> str:
        return str(self.root / "dataset")

    @property
    def cache(self) -> str:
        return str(self.root / "cache")

    @property
    def prompts(self) -> str:
        return str(self.root / "prompts-cache")

    def as_is(self, **options) -> EvaluationResult:
        return evaluate_cache(self.cache, self.dataset, **options)


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory, make_reference: Callable) -> Scored:
    scored = Scored(tmp_path_factory.mktemp("as-is"), make_reference(7))
    for shard in range(SHARDS):
        pairs = make_pairs(shard)
        for number, pair in enumerate(pairs):  # captions that two images share, across shards too
            pair.caption = f"number {number // 2} is {pair.caption.rpartition(' ')[2]}"
        pairs.append(MadePair("broken", b"no image", "nothing that is white"))
        pairs.append(MadePair("0000", pairs[0].image, "a repeated key"))
        write_tar(Path(scored.dataset) / f"{shard:05}.tar", pairs)
    write_prompts(scored.dataset, str(scored.root / "prompts"), class_field="colour")
    write_prompts(scored.dataset, str(scored.root / "simple"), **CLASSES)
    score(Path(scored.dataset), Path(scored.cache), scored.reference)
    score(scored.root / "simple", Path(scored.prompts), scored.reference)
    return scored


@pytest.fixture
def scored(tmp_path: Path, scored_once: Scored) -> Scored:
    """A copy, to be damaged, whose reference is not to be found."""
    shutil.copytree(scored_once.root, tmp_path / "copy")
    return Scored(tmp_path / "copy", Path("/gone"))


def test_it_equals_the_reference_itself(scored_once: Scored, tmp_path: Path):
    live = evaluate(str(scored_once.reference), scored_once.dataset, linear_probe=True, **CLASSES)
    away = scored_once.reference.rename(tmp_path / "away")
    try:
        found = scored_once.as_is(prompts_cache=scored_once.prompts, linear_probe=True, **CLASSES)
        plain = scored_once.as_is()
    finally:
        away.rename(scored_once.reference)
    assert found.model == f"local-dir:{scored_once.reference}"
    assert found.cache == scored_once.cache
    assert (found.images, found.skipped) == (SHARDS * PAIRS, 4)
    assert found.zero_shot is not None
    assert found.zero_shot.classes == sorted(COLOURS)
    same = {"model": "", "cache": None}
    assert found.model_copy(update=same) == live.model_copy(update=same)
    assert plain.image_to_text == live.image_to_text
    assert plain.text_to_image == live.text_to_image
    assert plain.zero_shot is plain.linear_probe is None


def test_a_cache_of_halves_is_as_good_but_for_rounding(scored_once: Scored, tmp_path: Path):
    for name in ("dataset", "simple"):
        score(scored_once.root / name, tmp_path / name, scored_once.reference, "float16")
    found = evaluate_cache(
        str(tmp_path / "dataset"),
        scored_once.dataset,
        prompts_cache=str(tmp_path / "simple"),
        **CLASSES,
    )
    exact = scored_once.as_is(prompts_cache=scored_once.prompts, **CLASSES)
    images = SHARDS * PAIRS
    for k in (1, 5, 10):  # at most one image changes places with another
        assert found.image_to_text[k] == pytest.approx(exact.image_to_text[k], abs=1 / images)
    assert found.zero_shot is not None
    assert exact.zero_shot is not None
    assert found.zero_shot.accuracy == pytest.approx(exact.zero_shot.accuracy, abs=1 / images)


def test_shards_are_chosen_as_with_a_model(scored: Scored):
    found = scored.as_is(
        shards="00001.tar",
        probe_shards="00000.tar",
        linear_probe=True,
        class_field="colour",
    )
    assert (found.shards, found.images) == (["00001.tar"], PAIRS)
    assert found.linear_probe is not None
    assert (found.linear_probe.images, found.linear_probe.train_images) == (PAIRS, PAIRS)


def test_retrieval_needs_no_pair_of_the_dataset(scored: Scored):
    expected = scored.as_is()
    for path in Path(scored.dataset).glob("*.tar"):
        path.write_bytes(b"")
    assert scored.as_is() == expected


def test_prompts_of_another_reference(scored: Scored, tmp_path: Path, make_reference: Callable):
    score(scored.root / "simple", tmp_path / "others", make_reference(8))
    with pytest.raises(FingerprintMismatch, match=r"different options \(weights_sha256\)"):
        scored.as_is(prompts_cache=str(tmp_path / "others"), **CLASSES)


def test_prompts_that_are_not_there(scored: Scored):
    options = {"prompts_cache": scored.prompts, "class_field": "colour"}
    with pytest.raises(MissingPair, match=r"'a bad photo of a blue\.' of class 'blue'.*openai"):
        scored.as_is(templates="openai", **options)
    with pytest.raises(InvalidInput, match="rhocache prompts"):
        scored.as_is(class_field="colour")
    with pytest.raises(InvalidInput, match="which field"):
        scored.as_is(prompts_cache=scored.prompts)
    with pytest.raises(DatasetError, match="field 'color'"):
        scored.as_is(prompts_cache=scored.prompts, class_field="color", templates="simple")


def change(scored: Scored, pairs: list[MadePair]) -> None:
    write_tar(Path(scored.dataset) / "00001.tar", pairs)


def test_a_shard_that_was_not_scored(scored: Scored):
    write_tar(Path(scored.dataset) / "00002.tar", make_pairs(0))
    with pytest.raises(CacheIncomplete, match=r"no shard 00002\.tar.*another dataset"):
        scored.as_is()
    options = {"linear_probe": True, "probe_shards": "00002.tar", **CLASSES}
    with pytest.raises(CacheIncomplete, match=r"no shard 00002\.tar"):
        scored.as_is(shards="00001.tar", **options)


def test_a_damaged_index_is_named(scored: Scored):
    options = {"prompts_cache": scored.prompts, **CLASSES}
    for damaged in (scored.prompts, scored.cache):
        with pytest.raises(CacheCorrupt, match=f"{damaged}/{flip_index(damaged)}"):
            scored.as_is(**options)


def test_pairs_that_have_changed_since(scored: Scored):
    options = {"prompts_cache": scored.prompts, **CLASSES}
    pairs = make_pairs(1)
    change(scored, pairs)
    with pytest.raises(PairMismatch, match=r"00001\.tar, key 0000: the caption is not the one"):
        scored.as_is(**options)
    pairs[0].image = pairs[1].image
    change(scored, pairs)
    with pytest.raises(PairMismatch, match=r"00001\.tar, key 0000: the image is not the one"):
        scored.as_is(**options)
    pairs[0].key = "new"
    change(scored, pairs)
    with pytest.raises(MissingPair, match=r"00001\.tar, key new"):
        scored.as_is(**options)
    change(scored, [])
    with pytest.raises(PairMismatch, match=r"has 0 pairs, but .* has 14 rows"):
        scored.as_is(**options)
