import pytest

from rhocache_schemas.cache import index
from rhocache_schemas.errors import CacheCorrupt

ROW = index.IndexRow("a/0.tar", 10, 9, 1, 4096, 20480, 1, "aa", "bb", "cc")


def test_round_trip() -> None:
    assert index.decode(index.encode([ROW, ROW]), "here") == [ROW, ROW]


@pytest.mark.parametrize("data", [b"", b"PAR1", index.encode([ROW])[:-5]])
def test_garbage_is_named(data: bytes) -> None:
    with pytest.raises(CacheCorrupt, match="here is not a readable index"):
        index.decode(data, "here")
