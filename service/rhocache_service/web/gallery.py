"""Cards of pairs: each with its picture and caption, as far as the dataset still has them."""

from collections.abc import Iterable

from fastapi import Request

from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import RhocacheError
from rhocache_service.caches.images import Place


def read_pairs(
    request: Request, manifest: Manifest, pairs: Iterable[CachedPair]
) -> tuple[dict[Place, Pair], str | None]:
    """Return the pairs that the dataset has at these places, and why it has none."""
    places = [(pair.shard, pair.row) for pair in pairs]
    try:
        return request.app.state.pictures.read(manifest, places), None
    except RhocacheError as error:  # the cache is all that a trainer needs: a dataset may be gone
        return {}, str(error)
