import hashlib
from typing import Any

import pytest

from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.errors import FingerprintMismatch
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec

BASE = Fingerprint(
    format_version="2.0",
    weights_sha256="ab",
    architecture={"embed_dim": 512, "a": 1},
    preprocessing={"mean": [0.5, 0.25]},
    tokenizer={"context_length": 77},
    precision="fp32",
    dtype="float16",
)


def test_the_digest_is_that_of_the_canonical_json_written_by_hand() -> None:
    canonical = (
        '{"architecture":{"a":1,"embed_dim":512},"caption_field":null,"dtype":"float16",'
        '"format_version":"2.0","made_from":"dataset","precision":"fp32",'
        '"preprocessing":{"mean":[0.5,0.25]},"tokenizer":{"context_length":77},"views":1,'
        '"weights_sha256":"ab"}'
    )
    assert BASE.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_digest_of_format_1_is_what_it_was() -> None:
    canonical = (
        '{"architecture":{"a":1,"embed_dim":512},"caption_field":null,"dtype":"float16",'
        '"format_version":"1.0","precision":"fp32","preprocessing":{"mean":[0.5,0.25]},'
        '"tokenizer":{"context_length":77},"views":1,"weights_sha256":"ab"}'
    )
    before = BASE.model_copy(update={"format_version": "1.0"})
    assert before.digest == hashlib.sha256(canonical.encode()).hexdigest()
    with pytest.raises(FingerprintMismatch, match=r"/c is a cache of format 1\.0.*--replace"):
        before.check_options(JOB)


def test_the_digest_is_of_utf8() -> None:
    other = BASE.model_copy(update={"caption_field": "légende"})
    canonical = (
        '{"architecture":{"a":1,"embed_dim":512},"caption_field":"légende","dtype":"float16",'
        '"format_version":"2.0","made_from":"dataset","precision":"fp32",'
        '"preprocessing":{"mean":[0.5,0.25]},"tokenizer":{"context_length":77},"views":1,'
        '"weights_sha256":"ab"}'
    )
    assert other.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_order_of_keys_does_not_matter() -> None:
    other = BASE.model_copy(update={"architecture": {"a": 1, "embed_dim": 512}})
    assert other.digest == BASE.digest
    BASE.check_same(other, "cache")


def test_a_tuple_is_the_list_that_json_makes_of_it() -> None:
    other = BASE.model_copy(update={"preprocessing": {"mean": (0.5, 0.25)}})
    assert other.digest == BASE.digest
    BASE.check_same(other, "cache")
    other.check_same(BASE, "cache")


def test_a_mismatch_names_the_fields_that_differ_and_no_other() -> None:
    other = BASE.model_copy(update={"dtype": "float32", "weights_sha256": "cd"})
    assert other.digest != BASE.digest
    with pytest.raises(FingerprintMismatch) as caught:
        BASE.check_same(other, "/c")
    message = str(caught.value)
    assert 'dtype (cache: "float16", now: "float32")' in message
    assert 'weights_sha256 (cache: "ab", now: "cd")' in message
    assert "precision" not in message


def test_values_are_told_as_sorted_json() -> None:
    with pytest.raises(FingerprintMismatch) as caught:
        BASE.check_same(BASE.model_copy(update={"tokenizer": {"b": "é", "a": 1}}), "/c")
    assert 'tokenizer (cache: {"context_length": 77}, now: {"a": 1, "b": "é"})' in str(caught.value)


def test_long_values_are_cut_to_200_characters() -> None:
    long, longer = "é" * 198, "é" * 199  # and two quotes
    with pytest.raises(FingerprintMismatch) as caught:
        BASE.model_copy(update={"caption_field": long}).check_same(
            BASE.model_copy(update={"caption_field": longer}), "/c"
        )
    assert f'(cache: "{long}", now: "{"é" * 196}...)' in str(caught.value)


JOB = ScoreSpec(dataset="d", output="/c", reference=ReferenceSpec(model="local-dir:/m"))


def test_the_options_of_a_job_that_made_the_cache_are_let_through() -> None:
    BASE.check_options(JOB)
    asked = JOB.model_copy(update={"dtype": "float32", "caption_field": "title"})
    BASE.model_copy(update={"dtype": "float32", "caption_field": "title"}).check_options(asked)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "float32"}, 'dtype (cache: "float16", now: "float32")'),
        ({"caption_field": "title"}, 'caption_field (cache: null, now: "title")'),
        (
            {"reference": ReferenceSpec(model="local-dir:/m", precision="bf16")},
            'precision (cache: "fp32", now: "bf16")',
        ),
    ],
)
def test_an_option_that_makes_another_cache_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(FingerprintMismatch) as caught:
        BASE.check_options(JOB.model_copy(update=change))
    assert f"/c was made with another fingerprint; differing: {told}. Use" in str(caught.value)
