"""A selection as a file of uids, as the tools of DataComp (Gadre et al. 2023) take one.

A uid is 32 hexadecimal digits, two unsigned numbers of 64 bits; the file is a numpy array of such
couples, sorted. The pairs of DataComp have theirs in the Parquet that img2dataset writes beside
each tar.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidDocument, InvalidInput, MissingPair
from rhocache_workers.over_cache.selection.values import UsablePairs

pc: Any = pyarrow.compute

_UID = np.dtype("u8,u8")
_PATTERN = "^[0-9a-f]{32}$"


def encode(pairs: UsablePairs, left: npt.NDArray[np.bool_], folder: str) -> bytes:
    """Return the file of the pairs that are ``left`` [n].

    ``folder`` has of each shard a Parquet file of its name, with the columns key and uid.

    Raises InvalidInput and StorageError for files that can't be read, InvalidDocument for columns
    that they lack and for what is no uid, and MissingPair for pairs that they lack.
    """
    parts = [np.empty(0, _UID)]
    for shard in pairs.rows:
        here = left[pairs.slice(shard)]
        if here.any():
            keys = pairs.keys(shard).filter(pa.array(here))
            parts.append(_uids(storage.join(folder, _beside(shard)), keys, shard))
    sink = io.BytesIO()
    np.save(sink, np.sort(np.concatenate(parts)))
    return sink.getvalue()


def _beside(shard: str) -> str:
    folder, slash, name = shard.rpartition("/")
    return f"{folder}{slash}{name.split('.')[0]}.parquet"


def _uids(place: str, keys: Any, shard: str) -> npt.NDArray[Any]:
    data = storage.read_bytes(place)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            there = file.schema_arrow.names
            lacking = [name for name in ("key", "uid") if name not in there]
            if lacking:
                has = ", ".join(there)
                raise InvalidDocument(f"{place} has no column {', '.join(lacking)}; it has {has}")
            table = file.read(["key", "uid"], use_threads=False)
    except pa.ArrowException as error:
        why = " ".join(str(error).split())
        raise InvalidInput(f"{place} is not a readable Parquet file: {why}") from error
    places = pc.index_in(keys, value_set=table["key"].cast(pa.string()).combine_chunks())
    if places.null_count:
        key = keys.filter(places.is_null())[0]
        raise MissingPair(f"{place} lacks {places.null_count} pairs of {shard}, such as key {key}")
    uids = table["uid"].cast(pa.string()).take(places)
    wrong = pc.invert(pc.match_substring_regex(uids, _PATTERN).fill_null(False))
    if pc.any(wrong).as_py():
        raise InvalidDocument(
            f"{place}: {uids.filter(wrong)[0]} is no uid, which has 32 hexadecimal digits"
        )
    digits = map(str, uids.to_pylist())
    return np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in digits], _UID)
