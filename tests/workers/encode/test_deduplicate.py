from concurrent.futures import Future

from rhocache_workers.encode.deduplicate import Embedding, Memo


def make() -> Embedding:
    return Embedding(Future())


def test_the_oldest_is_forgotten() -> None:
    memo = Memo(capacity=2)
    a, b = memo.get(b"a", make), memo.get(b"b", make)
    assert memo.get(b"a", make) is a
    memo.get(b"c", make)
    assert memo.get(b"a", make) is a
    assert memo.get(b"b", make) is not b
    memo.clear()
    assert memo.get(b"a", make) is not a
