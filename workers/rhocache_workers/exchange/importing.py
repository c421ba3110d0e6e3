"""Makes a cache of embeddings that another tool has computed, and says that it is one."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.cache.documents import Origin
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.rows import OK, ShardRows
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import InvalidInput, RowErrorCode
from rhocache_schemas.reference import Dtype, ReferenceSpec
from rhocache_workers.exchange.datacomp import short_name
from rhocache_workers.maintain.derive import Made, Outline, deriving

ImportFormat = Literal["clip-retrieval", "datacomp"]
_KEPT = 4  # arrays and tables, of those read last
_UNIT = 2e-3  # how far from 1 a stored unit vector's length may be


@dataclass(frozen=True, slots=True)
class _Part:
    """Files of the same pairs, in the same order."""

    table: Path
    image: Callable[[], npt.NDArray[Any]]  # [n, d]
    text: Callable[[], npt.NDArray[Any]]
    key: str  # column
    similarity: str  # column, which need not be there
    name: str
    files: tuple[Path, ...]


def import_embeddings(
    folder: str,
    format: str,
    out: str,
    reference: ReferenceSpec,
    *,
    dtype: Dtype | None = None,
    dataset: str | None = None,
    shard_digits: int | None = None,
    key_column: str | None = None,
    caption_field: str | None = None,
    logit_scale: float | None = None,
) -> Made:
    """Make a cache ``out`` of the embeddings in a local folder; ``dtype`` is theirs by default.

    Rows go to the shards that the table names (a column ``shard``), or else by the first
    ``shard_digits`` characters of their keys, as img2dataset names tars and pairs, or else to one
    a table; their keys are in ``image_path``, DataComp's in ``uid``, unless ``key_column`` says
    otherwise. Nobody has hashed their images and captions: hashes are null, and the manifest says
    where they are from. Vectors are brought to length 1; a zero or a NaN is a failed row.

    The keys of all rows are held in memory.

    Raises InvalidInput for another format, for a folder that has none of it, for files that do not
    fit together, and where ``out`` is there.
    """
    place = storage.local_path(folder)
    if format not in _READERS:
        raise InvalidInput(f"format {format!r} is not one of {', '.join(get_args(ImportFormat))}")
    parts = _READERS[format](place, reference)
    if key_column is not None:
        parts = [replace(part, key=key_column) for part in parts]
    first = parts[0].image()
    stored: Dtype = dtype or ("float32" if first.dtype == np.float32 else "float16")
    told = hashlib.sha256()
    for file in sorted({file for part in parts for file in part.files}):
        told.update(f"{file.relative_to(place)}\0{storage.sha256(str(file))}\0".encode())
    fingerprint = Fingerprint(
        weights_sha256=None,
        architecture={},
        preprocessing={},
        tokenizer={},
        precision=reference.precision,
        dtype=stored,
        caption_field=caption_field,
        made_from="embeddings",
    )
    outline = Outline(
        fingerprint=fingerprint,
        reference=reference,
        source=Source(dataset=dataset or folder),
        dimension=first.shape[1],
        logit_scale=logit_scale,
        origin=Origin(
            how="imported",
            sources=[folder],
            sources_sha256=[told.hexdigest()],
            format=format,
            dtype="float32" if first.dtype == np.float32 else "float16",
            weights_verified=False,
        ),
    )
    made = Made(out)
    with deriving(out, outline, made) as writer:
        for shard, rows in _shards(parts, shard_digits, first.shape[1]):
            writer.add_rows(Shard(shard, "", 0, 0), rows, told.hexdigest())
    return made


def _shards(
    parts: Sequence[_Part], digits: int | None, dimension: int
) -> Iterator[tuple[str, ShardRows]]:
    """Gather each shard's rows, wherever its tables have put them."""
    keys: list[Any] = []
    names: list[list[str]] = []
    places: list[Any] = []
    for part in parts:
        table = _table(part)
        keys.append(table[part.key].cast(pa.string()).combine_chunks())
        names.append(_names(part, table, digits))
        places.append(
            table["row"].to_numpy() if "row" in table.column_names else np.arange(len(table))
        )
    codes = {name: code for code, name in enumerate(dict.fromkeys(chain.from_iterable(names)))}
    of = np.concatenate([np.array([codes[name] for name in each], np.int64) for each in names])
    within = np.concatenate([np.arange(len(each)) for each in names])
    part_of = np.repeat(np.arange(len(parts)), [len(each) for each in names])
    order = np.lexsort((np.concatenate(places), of))
    ends = np.flatnonzero(np.diff(of[order])) + 1
    for group in np.split(order, ends):
        yield _gather(
            list(codes)[int(of[group[0]])], parts, keys, part_of[group], within[group], dimension
        )


def _names(part: _Part, table: pa.Table, digits: int | None) -> list[str]:
    if digits is not None:
        return [f"{key[:digits]}.tar" for key in cast("list[str]", table[part.key].to_pylist())]
    if "shard" in table.column_names:
        return cast("list[str]", table["shard"].to_pylist())
    return [part.name] * len(table)


def _gather(
    shard: str,
    parts: Sequence[_Part],
    keys: Sequence[Any],
    part_of: npt.NDArray[np.int64],
    within: npt.NDArray[np.int64],
    dimension: int,
) -> tuple[str, ShardRows]:
    count = len(within)
    image, text = (np.empty((count, dimension), np.float32) for _ in range(2))
    similarity = np.full(count, np.nan, np.float32)
    named: list[str] = [""] * count
    for number in np.unique(part_of).tolist():
        part, at = parts[number], np.flatnonzero(part_of == number)
        image[at], text[at] = part.image()[within[at]], part.text()[within[at]]
        for place, key in zip(
            at.tolist(), keys[number].take(pa.array(within[at])).to_pylist(), strict=True
        ):
            named[place] = key
        table = _table(part)
        if part.similarity in table.column_names:
            similarity[at] = table[part.similarity].to_numpy()[within[at]]
    usable = np.ones(count, np.bool_)
    for vectors in (image, text):
        with np.errstate(invalid="ignore", divide="ignore"):
            lengths = np.linalg.norm(vectors, axis=1)
            usable &= np.isfinite(lengths) & (lengths > 0)
            far = usable & (np.abs(lengths - 1) > _UNIT)
            vectors[far] /= lengths[far, None]
    similarity = np.where(np.isfinite(similarity), similarity, (image * text).sum(1))
    first = _first_of(named)
    status = [
        str(RowErrorCode.DUPLICATE_KEY) if not first[row]
        else OK if usable[row] else str(RowErrorCode.NON_FINITE_EMBEDDING)
        for row in range(count)
    ]  # fmt: skip
    bad = ~(usable & first)
    for column in (image, text, similarity):
        column[bad] = np.nan
    nothing: list[bytes | None] = [None] * count
    return shard, ShardRows(
        named,
        status,
        image[:, None],
        text[:, None],
        similarity.astype(np.float32),
        nothing,
        nothing,
    )


def _first_of(keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    seen: set[str] = set()
    return np.array([not (key in seen or seen.add(key)) for key in keys], np.bool_)


@lru_cache(maxsize=_KEPT)
def _table(part: _Part) -> pa.Table:
    wanted = (part.key, part.similarity, "shard", "row")
    try:
        file = pq.ParquetFile(part.table)
        columns = [name for name in wanted if name in file.schema_arrow.names]
        if part.key not in columns:
            raise InvalidInput(f"{part.table} has no column {part.key}, by which pairs are known")
        table = file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{part.table} is not readable Parquet: {error}") from error
    if table[part.key].null_count:
        raise InvalidInput(f"{part.table}: column {part.key} has nulls, and pairs without a key")
    for which, load in (("image", part.image), ("text", part.text)):
        vectors = load()
        if vectors.ndim != 2 or len(vectors) != len(table) or vectors.dtype.kind != "f":
            raise InvalidInput(
                f"{part.table} has {len(table)} rows, but its {which} embeddings are "
                f"{vectors.dtype} of shape {vectors.shape}, not floats of shape [{len(table)}, d]"
            )
    return table


def _clip_retrieval(place: Path, _: ReferenceSpec) -> list[_Part]:
    tables = sorted((place / "metadata").glob("metadata_*.parquet"))
    found: list[_Part] = []
    for table in tables:
        number = table.stem.removeprefix("metadata_")
        image, text = (
            place / f"{each}_emb" / f"{each}_emb_{number}.npy" for each in ("img", "text")
        )
        found.append(
            _Part(table, lambda file=image: _load(file), lambda file=text: _load(file),
                  "image_path", "similarity", table.stem, (table, image, text))
        )  # fmt: skip
    return found or _none(place, "metadata/metadata_*.parquet")


def _datacomp(place: Path, reference: ReferenceSpec) -> list[_Part]:
    name = short_name(reference.model)
    found: list[_Part] = []
    for table in sorted(place.glob("*.parquet")):
        file = table.with_suffix(".npz")
        image, text = (lambda file=file, field=f"{name}_{side}": _load(file, field)
                       for side in ("img", "txt"))  # fmt: skip
        score = f"clip_{name}_similarity_score"
        found.append(_Part(table, image, text, "uid", score, table.stem, (table, file)))
    return found or _none(place, "*.parquet")


def _none(place: Path, pattern: str) -> list[_Part]:
    raise InvalidInput(f"{place} has no {pattern}: is this the folder, and the format?")


@lru_cache(maxsize=_KEPT)
def _load(file: Path, field: str | None = None) -> npt.NDArray[Any]:
    try:
        if field is None:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        with np.load(file, allow_pickle=False) as arrays:
            if field not in arrays:
                raise InvalidInput(f"{file} has no {field}, but {', '.join(arrays.files)}")
            return arrays[field]
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"{file} holds no readable array: {error}") from error


_READERS: dict[str, Callable[[Path, ReferenceSpec], list[_Part]]] = {
    "clip-retrieval": _clip_retrieval,
    "datacomp": _datacomp,
}
