"""``/v1/caches``: lists, inspects, keeps and deletes committed caches."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pyarrow import fs

from rhocache_schemas import layout, storage
from rhocache_schemas.api import CacheChange, CachedPairList, CacheList, CacheSummary, places
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.job.allowed_roots import check_allowed
from rhocache_service.api.auth import ReadsCaches, WritesCaches
from rhocache_service.api.dependencies import After, InRegistry
from rhocache_service.caches import search, similarity
from rhocache_service.caches.images import media_type
from rhocache_service.caches.similarity import Ranking
from rhocache_service.http.openapi import BODY, api_problems, problems
from rhocache_service.http.problems import BrokenOff, ProblemError
from rhocache_service.jobs.deletion import give_up
from rhocache_service.registry.callers import Caller, Callers
from rhocache_service.registry.tables import CacheRow

router = APIRouter(prefix="/v1/caches", tags=["caches"])

_CHUNK = 1 << 20
_OF_CACHES = api_problems("validation-failed", "not-found")
_OF_A_CACHE = api_problems("validation-failed", "not-found", "cache-corrupt")
_WHOLE = (layout.MANIFEST, layout.INDEX, layout.SUMMARY, layout.PLAN)


def _cache(registry: InRegistry, _: ReadsCaches, cache: str) -> CacheRow:
    return registry.caches.find(cache)


def _own_cache(registry: InRegistry, _: WritesCaches, cache: str) -> CacheRow:
    return registry.caches.find(cache)


InCache = Annotated[CacheRow, Depends(_cache)]
ToChange = Annotated[CacheRow, Depends(_own_cache)]


@router.get("", summary="List caches", responses=_OF_CACHES)
def list_caches(
    registry: InRegistry,
    _: ReadsCaches,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: After = None,
) -> CacheList:
    """List the caches that jobs have committed, the last committed first."""
    last = None if after is None else registry.caches.find(after)
    rows = registry.caches.newest(limit + 1, last)
    found = [CacheSummary.model_validate(row, from_attributes=True) for row in rows]
    return CacheList.of(found, limit, [cache.id for cache in found])


@router.get("/{cache}", summary="Get a cache's manifest", responses=_OF_A_CACHE)
def get_cache_manifest(cache: InCache) -> Manifest:
    """Return the manifest of a cache, named by its id or by its fingerprint."""
    return CacheReader.open(cache.uri).manifest


@router.patch(
    "/{cache}", summary="Set when a cache expires", responses=api_problems(*BODY, "not-found")
)
def change_cache(cache: ToChange, change: CacheChange, registry: InRegistry) -> CacheSummary:
    """Keep a cache until a time, or for ever, whatever the service's retention says."""
    row = registry.caches.keep_until(cache, change.expires_at)
    return CacheSummary.model_validate(row, from_attributes=True)


@router.delete(
    "/{cache}",
    status_code=202,
    summary="Delete a cache",
    responses=api_problems("validation-failed", "not-found", "uri-not-allowed", "cache-busy"),
)
def delete_cache(request: Request, cache: ToChange, registry: InRegistry) -> None:
    """Delete a cache that no job is at work on. It is listed no more; then its files go.

    Files in its folder that are not the cache's stay.
    """
    give_up(registry, cache.uri, request.app.state.settings.roots)


@router.get("/{cache}/pairs", summary="Look at pairs", responses=_OF_A_CACHE)
def list_cache_pairs(
    request: Request,
    cache: InCache,
    key: Annotated[str | None, Query(description="only pairs of this key")] = None,
    order: Annotated[
        Literal["lowest", "highest"], Query(description="which similarity comes first")
    ] = "lowest",
    after: Annotated[int, Query(ge=0, le=10**12, description="how many to pass over")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> CachedPairList:
    """List pairs by the rank of their similarity, or those of a key.

    Of a large cache the 1,000 lowest and highest have ranks; of one of format 1 the pairs of some
    shards, chosen evenly.
    """
    reader = CacheReader.open(cache.uri)
    if key is not None:
        found = list(search.with_key(reader, key))[after:]
        return CachedPairList.of(found, limit, places(after))
    ranking: Ranking = request.app.state.similarities
    pairs, shards = similarity.by_rank(
        reader, ranking, after, limit + 1, highest=order == "highest"
    )
    found = CachedPairList.of(pairs, limit, places(after))
    return found.model_copy(update={"shards": shards})


@router.get(
    "/{cache}/pictures",
    summary="Get a picture",
    response_class=Response,
    responses=_OF_A_CACHE,
)
def get_picture(
    request: Request,
    cache: InCache,
    shard: Annotated[str, Query(description="name of the dataset shard")],
    row: Annotated[int, Query(ge=0, le=10**9, description="of the pair in it")],
) -> Response:
    """Return a pair's picture as the dataset has it."""
    manifest = CacheReader.open(cache.uri).manifest
    pair = request.app.state.pictures.read(manifest, [(shard, row)]).get((shard, row))
    if pair is None or pair.image is None:
        raise ProblemError("not-found", f"the dataset has no picture at row {row} of {shard!r}")
    headers = {
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, max-age=3600",
    }
    return Response(pair.image, media_type=media_type(pair.image), headers=headers)


@router.get(
    "/{cache}/files/{name:path}",
    summary="Download a file",
    response_class=Response,
    responses=api_problems("validation-failed", "not-found", "uri-not-allowed", "cache-corrupt")
    | {
        206: {"description": "The bytes that were asked for"},
        416: problems("malformed-request")[400],
    },
)
def download_cache_file(request: Request, who: ReadsCaches, cache: InCache, name: str) -> Response:
    """Download a file of a cache: of its documents but the progress, or shards/NAME.parquet.

    One byte range may be asked for. An index that is not the one that the manifest names is none.
    """
    if name not in _WHOLE and not name.startswith("shards/"):
        raise ProblemError("not-found", f"a cache has no file {name!r}")
    if ".." in name.split("/"):
        raise ProblemError("not-found", f"{name!r} lies outside the cache")
    uri = storage.join(cache.uri, name)
    check_allowed(uri, request.app.state.settings.roots)  # a link may have been put there since
    filesystem, path = storage.resolve(uri)
    try:
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise storage.failure(f"cannot look at {uri}", error) from error
    if not info.is_file:
        raise ProblemError("not-found", f"this cache has no file {name!r}")
    if name == layout.INDEX:
        _ = CacheReader.open(cache.uri).index
    size = info.size
    first, last, partial = _range(request.headers.get("range"), size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(last - first + 1),
        "Content-Disposition": "attachment",
    }
    if partial:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    callers: Callers = request.app.state.callers
    stream = _while_permitted(callers, who, _read(filesystem, path, first, last + 1))
    kind = "application/json" if name.endswith(".json") else "application/vnd.apache.parquet"
    return StreamingResponse(stream, 206 if partial else 200, headers, kind)


def _range(header: str | None, size: int) -> tuple[int, int, bool]:
    """First and last byte to send, and whether that is a part. Several ranges are not: all is sent.

    Raises ProblemError where the range lies beyond the end.
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header or "")
    if match is None or not any(match.groups()):
        return 0, size - 1, False
    if match[1]:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first > last:
        detail = f"the file has {size} bytes; {header!r} has none of them"
        headers = {"Content-Range": f"bytes */{size}"}
        raise ProblemError("malformed-request", detail, status=416, headers=headers)
    return first, last, True


def _while_permitted(callers: Callers, who: Caller, parts: Iterator[bytes]) -> Iterator[bytes]:
    """Raises BrokenOff as soon as the caller may not have the rest."""
    for part in parts:
        if not callers.may_go_on(who):
            raise BrokenOff("the API key or session has ended")
        yield part


def _read(filesystem: fs.FileSystem, path: str, first: int, end: int) -> Iterator[bytes]:
    with filesystem.open_input_file(path) as source:
        for start in range(first, end, _CHUNK):
            yield source.read_at(min(_CHUNK, end - start), start)  # pyright: ignore[reportCallIssue]
