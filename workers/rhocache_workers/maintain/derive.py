"""Writes a cache whose rows no run encodes, as they come from other caches or elsewhere."""

import io
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Manifest, Origin, Plan
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.cache.shard_file import Totals, writer_like
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import TARS, Kind, Source
from rhocache_schemas.errors import InvalidInput, ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_schemas.storage.new_folder import new_folder
from rhocache_workers.messages import CommittedShard, Description, committed_shard
from rhocache_workers.run.commit import commit

WINDOW = 1024  # rows of a row group


@dataclass(slots=True)
class Made:
    """What was written. ``dataclasses.asdict`` is what ``--json`` prints."""

    cache: str
    shards: int = 0
    rows: int = 0
    ok: int = 0
    bytes: int = 0
    dtype: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a new cache's documents say beside its shards."""

    fingerprint: Fingerprint
    reference: ReferenceSpec
    source: Source
    dimension: int
    origin: Origin
    format: Kind = TARS  # of the source
    logit_scale: float | None = None
    logit_bias: float | None = None
    reference_sha256: str | None = None
    batch_size: int = 1
    software: dict[str, str] = field(default_factory=dict)
    failed_shards: dict[str, str] = field(default_factory=dict)  # name -> code

    @classmethod
    def of(cls, manifest: Manifest, fingerprint: Fingerprint, origin: Origin) -> "Outline":
        return cls(
            fingerprint=fingerprint,
            reference=manifest.reference,
            source=manifest.source,
            format=manifest.format,
            dimension=manifest.dimension,
            origin=origin,
            logit_scale=manifest.logit_scale,
            logit_bias=manifest.logit_bias,
            reference_sha256=manifest.reference_sha256,
            batch_size=manifest.batch_size,
            software=manifest.software,
            failed_shards=dict(manifest.failed_shards),
        )


class Writer:
    """Writes the shard files of a new cache, in a folder that becomes it."""

    def __init__(self, place: str, fingerprint: Fingerprint) -> None:
        self._place = place
        self._fingerprint = fingerprint
        self.committed: list[CommittedShard] = []

    def add_rows(self, shard: Shard, rows: ShardRows, source_sha256: str) -> None:
        """Write a shard's rows in the fingerprint's dtype."""
        sink, dtype = io.BytesIO(), np.dtype(self._fingerprint.dtype)
        with writer_like(rows, sink, dtype) as writer:
            for start in range(0, len(rows.keys), WINDOW):
                writer.write(rows.part(start, start + WINDOW))
            totals = writer.close(self._fingerprint.digest, source_sha256)
        self.add_file(shard, sink.getvalue(), totals, source_sha256)

    def add_file(self, shard: Shard, data: bytes, totals: Totals, source_sha256: str) -> None:
        """Write the bytes of a shard file."""
        storage.write_atomic(layout.shard_file(self._place, shard.name), data)
        self.committed.append(committed_shard(shard, totals, source_sha256))


@contextmanager
def deriving(
    out: str, outline: Outline, made: Made, shards: Iterable[str] | None = None
) -> Generator[Writer]:
    """Yield what writes the shards of a new cache at ``out``, and commit it in the end.

    Where their names are known before, a cache that is cut short in an object store is known to be
    one, by its plan, and can be deleted.

    Raises InvalidInput where something is at ``out``, and where there were no usable rows.
    """
    fingerprint = outline.fingerprint
    spec = ScoreSpec(
        **outline.source.model_dump(exclude={"shard_column"}),
        format=outline.format,
        output=out,
        reference=outline.reference,
        dtype=fingerprint.dtype,
        metadata={},
    )

    def plan(names: Iterable[str]) -> None:
        begun = Plan.begin(spec, fingerprint, names, {})
        storage.write_atomic(layout.plan_file(place), begun.to_json())

    with new_folder(out) as place:
        writer = Writer(place, fingerprint)
        if shards is not None:
            plan(shards)
        yield writer
        committed = writer.committed
        _sum_up(made, committed, fingerprint)
        if shards is None:
            plan(shard.index.name for shard in committed)
        commit(
            spec.model_copy(update={"output": place}),
            Description(
                fingerprint=fingerprint,
                dimension=outline.dimension,
                logit_scale=outline.logit_scale,
                logit_bias=outline.logit_bias,
                device="",
                batch_size=outline.batch_size,
                software=outline.software,
            ),
            outline.reference_sha256,
            committed,
            {
                name: ShardError(ShardErrorCode(code), name, "")
                for name, code in outline.failed_shards.items()
            },
            lambda: None,
            outline.origin,
        )


def _sum_up(made: Made, shards: Iterable[CommittedShard], fingerprint: Fingerprint) -> None:
    for shard in shards:
        made.shards += 1
        made.rows += shard.index.rows
        made.ok += shard.index.ok
        made.bytes += shard.index.bytes
    made.dtype = fingerprint.dtype
    if not made.ok:
        raise InvalidInput(f"there is no usable row to write to {made.cache}")
