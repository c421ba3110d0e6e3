"""The list of caches, on both databases."""

import pytest
from sqlalchemy.engine import Engine

from rhocache_schemas.errors import CacheNotFound
from rhocache_service.registry.caches import Committed, cache_id


def test_caches_are_listed_by_their_last_commit(database: Engine) -> None:
    caches = Committed(database)
    for number in range(5):
        caches.add(f"/data/{number}", f"{number:064}", "job_a", at=100 + number // 2)
    caches.add("/data/0", f"{9:064}", "job_b", at=200)
    listed = caches.newest(10)
    assert (listed[0].uri, listed[0].job, len(listed)) == ("/data/0", "job_b", 5)
    paged = caches.newest(2)
    while more := caches.newest(2, paged[-1]):
        paged += more
    assert [cache.id for cache in paged] == [cache.id for cache in listed]


def test_a_cache_is_found_by_its_id_or_by_a_fingerprint_of_its_own(database: Engine) -> None:
    caches = Committed(database)
    for place, fingerprint in (("/data/a", "1" * 64), ("/data/b", "2" * 64), ("/data/c", "2" * 64)):
        caches.add(place, fingerprint, "job", at=1)
    assert caches.find(cache_id("/data/./b")).uri == "/data/b"
    assert caches.find("1" * 64).uri == "/data/a"
    with pytest.raises(CacheNotFound, match="several caches") as caught:
        caches.find("2" * 64)
    assert all(cache_id(place) in str(caught.value) for place in ("/data/b", "/data/c"))
    for name in ("", "none", "\0", "'; DROP TABLE caches; --"):
        with pytest.raises(CacheNotFound, match="no "):
            caches.find(name)
