from rhocache_schemas.dataset.pair import hash_caption, hash_image


def test_hashes_are_the_published_xxh3_64() -> None:
    # https://github.com/Cyan4973/xxHash: XXH3_64bits of the empty string, seed 0.
    assert hash_image(b"").hex() == "2d06800538d394c2"


def test_a_caption_is_hashed_as_utf8() -> None:
    assert hash_caption("naïve 🙂") == hash_image("naïve 🙂".encode())
