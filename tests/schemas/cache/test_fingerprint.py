import hashlib

import pytest

from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.errors import FingerprintMismatch

BASE = Fingerprint(
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
        '"format_version":"1.0","precision":"fp32","preprocessing":{"mean":[0.5,0.25]},'
        '"tokenizer":{"context_length":77},"views":1,"weights_sha256":"ab"}'
    )
    assert BASE.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_order_of_keys_does_not_matter() -> None:
    other = BASE.model_copy(update={"architecture": {"a": 1, "embed_dim": 512}})
    assert other.digest == BASE.digest
    BASE.check_same(other, "cache")


def test_a_mismatch_names_the_fields_that_differ_and_no_other() -> None:
    other = BASE.model_copy(update={"dtype": "float32", "weights_sha256": "cd"})
    assert other.digest != BASE.digest
    with pytest.raises(FingerprintMismatch) as caught:
        BASE.check_same(other, "/c")
    message = str(caught.value)
    assert 'dtype (cache: "float16", now: "float32")' in message
    assert 'weights_sha256 (cache: "ab", now: "cd")' in message
    assert "precision" not in message
