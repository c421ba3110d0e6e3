import xxhash

from rhocache_schemas.dataset.pair import hash_caption, hash_captions, hash_image


def test_hashes_are_the_published_xxh3() -> None:
    # https://github.com/Cyan4973/xxHash: XXH3_64bits and _128bits of the empty string, seed 0.
    assert hash_image(b"", 8).hex() == "2d06800538d394c2"
    assert hash_image(b"").hex() == "99aa06d3014798d86001c324468d497f"


def test_several_captions_are_hashed_with_their_lengths() -> None:
    spelled = b"\x02" + bytes(7) + b"ab" + b"\x01" + bytes(7) + b"c"
    assert hash_captions(["ab", "c"]) == xxhash.xxh3_128_digest(spelled)
    assert hash_captions(["ab", "c"]) != hash_captions(["a", "bc"])
    assert hash_captions(["abc"]) == hash_caption("abc")


def test_a_caption_is_hashed_as_utf8() -> None:
    assert hash_caption("naïve 🙂") == hash_image("naïve 🙂".encode())
