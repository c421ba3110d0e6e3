"""Writes the usable rows of a cache in the layout of another tool."""

import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import InvalidInput, MissingExtra
from rhocache_schemas.storage.new_folder import new_folder
from rhocache_workers.exchange.datacomp import write_datacomp
from rhocache_workers.exchange.usable import UsableRows, lists, usable_rows
from rhocache_workers.maintain.derive import Made

ExportFormat = Literal["npy", "parquet-lists", "lance", "datacomp", "huggingface"]


def export(cache: str, format: str, out: str) -> Made:
    """Write the usable rows of a cache to a new folder ``out``.

    ``npy`` is clip-retrieval's layout, ``datacomp`` that of DataComp's metadata, ``huggingface`` a
    folder for ``datasets.load_dataset``.

    Raises InvalidInput for another format and where ``out`` is there; MissingExtra for a package
    that is not installed; StorageError; and what reading a cache raises.
    """
    if format not in _WRITERS:
        raise InvalidInput(f"format {format!r} is not one of {', '.join(get_args(ExportFormat))}")
    write = _WRITERS[format]
    reader = CacheReader.open(cache)
    made = Made(out, dtype=reader.manifest.fingerprint.dtype)
    if format == "lance":
        _lance()
    with _new_local_folder(out) as place:
        write(reader, _counted(reader, made), place)
        made.bytes = sum(file.stat().st_size for file in _files(place))
    return made


@contextmanager
def _new_local_folder(out: str) -> Generator[Path]:
    """Yield a local folder to write to; what is in it is at ``out`` in the end.

    To an object store it is copied, a file after another, from the machine's temporary folder.
    """
    with new_folder(out) as place:
        if storage.scheme(place) == "file":
            yield Path(place)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            for file in _files(Path(folder)):
                name = file.relative_to(folder).as_posix()
                with file.open("rb") as data, storage.AtomicFile(storage.join(out, name)) as target:
                    shutil.copyfileobj(data, target)
                    target.commit()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _counted(reader: CacheReader, made: Made) -> Iterator[UsableRows]:
    for rows in usable_rows(reader):
        made.shards += 1
        made.rows += len(rows.keys)
        made.ok += len(rows.keys)
        yield rows


def _npy(reader: CacheReader, parts: Iterator[UsableRows], place: Path) -> None:
    """img_emb/, text_emb/ and metadata/, each with a file a shard, numbered alike."""
    for folder in ("img_emb", "text_emb", "metadata"):
        (place / folder).mkdir()
    digits = len(str(reader.manifest.shards - 1))
    for number, part in enumerate(parts):
        name = str(number).zfill(digits)
        np.save(place / "img_emb" / f"img_emb_{name}.npy", part.image)
        np.save(place / "text_emb" / f"text_emb_{name}.npy", part.text)
        columns = part.places
        named = {"image_path": columns.pop("key")} | columns
        pq.write_table(pa.table(named), place / "metadata" / f"metadata_{name}.parquet")


def _parquet_lists(_: CacheReader, parts: Iterator[UsableRows], place: Path) -> None:
    """A file a shard, called as it is, with lists of numbers whatever the cache stores."""
    for part in parts:
        file = place / f"{part.shard}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(_table(part), file)


def _huggingface(reader: CacheReader, parts: Iterator[UsableRows], place: Path) -> None:
    """data/train-NNNNN-of-NNNNN.parquet and a card that says where they are from."""
    (place / "data").mkdir()
    total = sum(row.ok > 0 for row in reader.index.values())
    for number, part in enumerate(parts):
        _write(_table(part), place / "data" / f"train-{number:05}-of-{total:05}.parquet")
    manifest = reader.manifest
    card = {
        "dataset": manifest.dataset,
        "reference": manifest.reference.model_dump(),
        "fingerprint_sha256": manifest.fingerprint_sha256,
        "origin": manifest.origin and manifest.origin.model_dump(),
    }
    (place / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/*.parquet\n---\n\nEmbeddings of a rhocache cache:\n\n"
        f"```json\n{json.dumps(card, indent=1)}\n```\n"
    )


def _write_lance(reader: CacheReader, parts: Iterator[UsableRows], place: Path) -> None:
    lance, size = _lance(), reader.manifest.dimension
    kind = pa.list_(pa.float16() if reader.manifest.fingerprint.dtype == "float16" else
                    pa.float32(), size)  # fmt: skip
    vectors = ("image_embedding", "text_embedding")
    schema = pa.schema(
        [
            ("key", pa.string()), ("shard", pa.string()), ("row", pa.int32()),
            ("similarity", pa.float32()), *((name, kind) for name in vectors),
        ]
    )  # fmt: skip
    batches = (batch for part in parts for batch in _table(part).cast(schema).to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(place))


def _lance() -> Any:
    try:
        import lance  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(
            "writing Lance needs the lance extra (pylance is not installed): "
            "pip install 'rhocache[workers,lance]'"
        ) from error
    return lance


def _table(part: UsableRows) -> pa.Table:
    embeddings = {"image_embedding": lists(part.image), "text_embedding": lists(part.text)}
    return pa.table(part.places | embeddings)


def _write(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, compression="none", use_dictionary=["shard"], store_schema=False)  # pyright: ignore[reportArgumentType]


_WRITERS: dict[str, Callable[[CacheReader, Iterator[UsableRows], Path], None]] = {
    "npy": _npy,
    "parquet-lists": _parquet_lists,
    "lance": _write_lance,
    "datacomp": write_datacomp,
    "huggingface": _huggingface,
}
