"""Puts the shards of several caches of one reference into one."""

from collections.abc import Sequence

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Origin
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.summary import Rounding
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import FingerprintMismatch, InvalidInput
from rhocache_workers.maintain.derive import Made, Outline, deriving


def merge(caches: Sequence[str], out: str) -> Made:
    """Copy the shards of caches with the same fingerprint, and none in common, to a new one.

    Each file is checked on the way. The dataset of the new cache is the first one's.

    Raises InvalidInput for fewer than two, for a shard that two have, and where ``out`` is there;
    FingerprintMismatch; and what opening and reading a cache raises.
    """
    if len(caches) < 2:
        raise InvalidInput(f"there are caches to merge from two on, not {len(caches)}")
    readers = [CacheReader.open(cache) for cache in caches]
    _check_same(readers)
    _check_disjoint(readers)
    first = readers[0].manifest
    origins = [reader.manifest.origin for reader in readers]
    origin = Origin(
        how="merged",
        sources=list(caches),
        sources_sha256=[storage.sha256(layout.manifest_file(cache)) for cache in caches],
        format=f"cache {first.format_version}",
        dtype=first.fingerprint.dtype,
        rounding=_worst([origin.rounding for origin in origins if origin]),
        weights_verified=all(origin is None or origin.weights_verified for origin in origins),
    )
    outline = Outline.of(first, first.fingerprint, origin)
    for reader in readers:
        outline.failed_shards.update(reader.manifest.failed_shards)
    there = {name for reader in readers for name in reader.index}
    for name in there & outline.failed_shards.keys():  # another of them could read it
        del outline.failed_shards[name]
    made = Made(out)
    with deriving(out, outline, made, there) as writer:
        for reader in readers:
            for name, row in reader.index.items():
                data = reader.shard_bytes(name)
                totals, _ = shard_file.sum_up(data, layout.shard_file(reader.uri, name))
                shard = Shard(name, "", row.source_size, row.source_mtime_ns)
                writer.add_file(shard, data, totals, row.source_sha256)
    return made


def _check_same(readers: Sequence[CacheReader]) -> None:
    first = readers[0]
    for reader in readers:
        if reader.manifest.fingerprint.is_format_1:
            raise FingerprintMismatch(
                f"{reader.uri} is a cache of format {reader.manifest.format_version}, which is not "
                "written any more: make it one of the newest with `rhocache convert` first"
            )
        first.manifest.fingerprint.check_same(reader.manifest.fingerprint, first.uri)


def _check_disjoint(readers: Sequence[CacheReader]) -> None:
    owner: dict[str, str] = {}
    for reader in readers:
        for name in reader.index:
            if name in owner:
                raise InvalidInput(
                    f"shard {name} is in {owner[name]} and in {reader.uri}: caches that are merged "
                    "have no shard in common"
                )
            owner[name] = reader.uri


def _worst(roundings: Sequence[Rounding | None]) -> Rounding | None:
    known = [each for each in roundings if each is not None]
    return max(known, key=lambda each: each.similarity.p99, default=None)
