"""Verifies a committed cache against itself, its dataset and its reference."""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.listing import shard_files, unknown_files
from rhocache_schemas.cache.reader import CacheReader, changes
from rhocache_schemas.cache.shard_file import OK, Footer, ShardRows
from rhocache_schemas.cache.summary import Rounding, ShardSummary, ShardSummer, summarise
from rhocache_schemas.dataset.formats import open_dataset, read_shard
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    InvalidInput,
    RhocacheError,
    ShardError,
)

# Of an embedding's entry: what other hardware's arithmetic may add, and what storing it rounds.
ARITHMETIC = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2}
ROUNDING = {"float32": 0.0, "float16": 2.5e-4, "int8": 5e-3}
NORM_TOLERANCE = 2e-3


Scored = tuple[Pair, np.ndarray, np.ndarray]  # with its image [V, d] and text [d] embeddings


@dataclass(frozen=True, slots=True)
class Finding:
    where: str  # a file, ``shard NAME`` or ``shard NAME, key KEY``
    problem: str
    shard: str | None = None  # the shard that must be encoded again to mend it


@dataclass(slots=True)
class VerifyReport:
    cache: str
    shards: int = 0
    rows: int = 0
    complete: bool = False  # all shards were looked at, as far as the manifest tells
    pairs_compared: int = 0  # with the dataset
    pairs_encoded_again: int = 0
    largest_difference: float | None = None  # of an embedding's entry, encoded again
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be checked, and why

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(
    cache: str, dataset: str | None = None, *, sample: int = 64, deep: bool = False
) -> VerifyReport:
    """Check hashes, counts, footers and rows; with a dataset, that every pair is still the same.

    ``deep`` takes the dataset that the manifest names where none is given.

    With a dataset and the reference at hand, ``sample`` pairs are also encoded again.

    Raises CacheNotFound, CacheIncomplete when there is no manifest, and DatasetError. What is wrong
    with the cache is reported.
    """
    report = VerifyReport(cache)
    try:
        reader = CacheReader.open(cache)
    except (InvalidInput, CacheCorrupt) as error:  # of its manifest
        report.findings.append(Finding(layout.MANIFEST, str(error)))
        return report
    manifest = reader.manifest
    rows, names = _check_index(report, reader)
    if deep and dataset is None:
        dataset = manifest.dataset
    sources = _sources(report, manifest, dataset, names)
    chosen: list[Scored] = []
    parts: dict[str, tuple[ShardSummary, int]] = {}
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        found = _check_shard(report, manifest, name, rows.get(name))
        if found is not None:
            size = rows[name].bytes if name in rows else 0
            parts[name] = _sum_up(*found), size
        if found is not None and name in sources:
            share = math.ceil((sample - len(chosen)) / left)
            chosen += _check_source(report, manifest, name, *found, sources[name], share)
    if rows and not report.findings:  # of which the rest would follow
        _check_summary(report, reader, parts)
    if chosen:
        _encode_again(report, manifest, chosen)
    return report


def _sum_up(columns: ShardRows, footer: Footer) -> ShardSummary:
    summer = ShardSummer()
    summer.update(columns.similarity[columns.ok])
    return summer.summary(footer.rounding)


def _check_summary(
    report: VerifyReport, reader: CacheReader, parts: dict[str, tuple[ShardSummary, int]]
) -> None:
    """Check what the index, the summary and the manifest say of similarities by the rows."""
    manifest = reader.manifest
    if manifest.summary_sha256 is None:
        return
    told = reader.summaries
    for name, (part, _) in parts.items():
        if name not in told or not _alike(told[name], part):
            problem = f"has other similarities than {layout.INDEX} says"
            report.findings.append(Finding(f"shard {name}", problem, name))
    if manifest.rounding != Rounding.of(part.rounding for part, _ in parts.values()):
        problem = "states another error of rounding than its shards"
        report.findings.append(Finding(layout.MANIFEST, problem))
    try:
        summary = reader.summary
    except (CacheCorrupt, CacheIncomplete, InvalidInput) as error:
        report.findings.append(Finding(layout.SUMMARY, str(error)))
        return
    if summary != summarise(parts, reader.columns):
        report.findings.append(Finding(layout.SUMMARY, "is not of the rows that there are"))


def _alike(told: ShardSummary, found: ShardSummary) -> bool:
    ends = (told.lowest, told.highest, told.rounding)
    if ends != (found.lowest, found.highest, found.rounding):
        return False
    return np.array_equal(told.counts, found.counts)


def _check_index(
    report: VerifyReport, reader: CacheReader
) -> tuple[dict[str, IndexRow], list[str]]:
    """Check the index, and the manifest by it: its rows, and the names of the shards to look at.

    A damaged index is believed in nothing: the shards are those that have files.
    """
    manifest = reader.manifest
    try:
        rows = reader.index
    except (CacheCorrupt, CacheIncomplete) as error:
        report.findings.append(Finding(layout.INDEX, str(error)))
        names = sorted(shard_files(report.cache))
        report.shards, report.complete = len(names), len(names) >= manifest.shards
        if not report.complete:
            problem = f"names {manifest.shards} shards, of which {len(names)} have files"
            report.findings.append(Finding(layout.MANIFEST, problem))
        return {}, names
    report.complete = True
    _check_totals(report, manifest, rows)
    _check_files(report, manifest, rows)
    return rows, list(rows)


def _check_totals(report: VerifyReport, manifest: Manifest, rows: dict[str, IndexRow]) -> None:
    report.shards, report.rows = len(rows), sum(row.rows for row in rows.values())
    for name, told, found in (
        ("shards", manifest.shards, len(rows)),
        ("rows", manifest.rows, report.rows),
        ("ok", manifest.ok, sum(row.ok for row in rows.values())),
        ("failed", manifest.failed, sum(row.failed for row in rows.values())),
    ):
        if told != found:
            report.findings.append(
                Finding(layout.MANIFEST, f"says {name} {told}, but it is {found}")
            )


def _check_files(report: VerifyReport, manifest: Manifest, rows: dict[str, IndexRow]) -> None:
    """Name files that nothing else names: rows that no reader will see, or a stranger's files."""
    failed = manifest.failed_shards
    # A shard that could be read before may still have its file.
    for path in unknown_files(report.cache, rows.keys() | failed.keys(), failed):
        if _is_loose(report.cache, path, manifest):
            report.notes.append(
                f"{path} is named by no line of {layout.INDEX}, as a run leaves it that did not "
                "end: score the dataset again to take it in, or with --prune to drop it"
            )
        else:
            report.findings.append(Finding(path, "is no file of this cache; remove it"))


def _is_loose(cache: str, path: str, manifest: Manifest) -> bool:
    """Whether it is a shard file that this cache's reference made."""
    uri = storage.join(cache, path)
    try:
        _, footer = shard_file.sum_up(storage.read_bytes(uri), uri)
    except RhocacheError:
        return False
    return footer.fingerprint_sha256 == manifest.fingerprint_sha256


def _check_shard(
    report: VerifyReport, manifest: Manifest, name: str, row: IndexRow | None
) -> tuple[ShardRows, Footer] | None:
    """Check one shard file, by its own footer where no index tells; what it holds, if readable."""

    def find(problem: str) -> None:
        report.findings.append(Finding(f"shard {name}", problem, name))

    uri = layout.shard_file(report.cache, name)
    if not storage.exists(uri):
        find(f"its file {uri} is missing")
        return None
    data = storage.read_bytes(uri)
    if row is not None and hashlib.sha256(data).hexdigest() != row.file_sha256:
        find(f"the bytes of {uri} differ from their hash in the index")
    try:
        columns, footer = shard_file.decode(data, uri)
    except RhocacheError as error:
        find(str(error))
        return None
    ok = columns.ok
    norms = np.linalg.norm(
        np.concatenate([columns.image[ok], columns.text[ok]], axis=1, dtype=np.float32), axis=-1
    )
    keys = Counter(
        key for key, code in zip(columns.keys, columns.status, strict=True) if code == OK
    )
    repeated = [f"key {key}" for key, count in keys.items() if count > 1]
    if row is None:
        report.rows += footer.rows
    usable = int(ok.sum())
    told, by, told_ok = (
        (footer, "its footer", usable) if row is None else (row, "the index", row.ok)
    )
    for wrong, problem in (
        (footer.fingerprint_sha256 != manifest.fingerprint_sha256, "was made by another reference"),
        (footer.source_sha256 != told.source_sha256, f"names another source shard than {by}"),
        (len(columns.keys) != told.rows, f"has {len(columns.keys)} rows, not {told.rows}"),
        (usable != told_ok, f"has {usable} ok rows, not {told_ok}"),
        (columns.content_sha256() != told.content_sha256, f"holds other rows than {by} says"),
        (repeated, f"repeats {', '.join(repeated[:5])}"),
        (not (abs(norms - 1) < NORM_TOLERANCE).all(), "has embeddings that are no unit vectors"),
        (not np.isfinite(columns.similarity[ok]).all(), "has similarities that are not finite"),
    ):
        if wrong:
            find(problem)
    return columns, footer


def _sources(
    report: VerifyReport, manifest: Manifest, dataset: str | None, names: list[str]
) -> dict[str, Shard]:
    if dataset is None:
        report.notes.append("no dataset was given: its pairs were not compared")
        return {}
    source = manifest.source.model_copy(update={"dataset": dataset})
    sources = {shard.name: shard for shard in open_dataset(source, manifest.format).shards}
    for name in names:
        if name not in sources:
            report.findings.append(Finding(f"shard {name}", f"is not in {dataset}"))
    more = len(sources.keys() - set(names))
    if more:
        report.notes.append(
            f"{more} of the {len(sources)} shards of {dataset} are not in the cache"
        )
    return sources


def _check_source(
    report: VerifyReport,
    manifest: Manifest,
    name: str,
    columns: ShardRows,
    footer: Footer,
    shard: Shard,
    share: int,
) -> list[Scored]:
    """Compare every pair; give the first ``share`` that agree and are usable."""

    def find(key: str | None, problem: str) -> None:
        where = f"shard {name}" + (f", key {key}" if key else "")
        report.findings.append(Finding(where, problem, name))

    reader = read_shard(shard, manifest.source)
    same: list[Scored] = []
    count = 0
    try:
        for pair in reader:
            count += 1
            if pair.row >= len(columns.keys) or pair.key != columns.keys[pair.row]:
                find(pair.key, f"stands at row {pair.row} of the dataset, but not of the cache")
                continue
            hashes = columns.image_hash[pair.row], columns.caption_hash[pair.row]
            changed = changes(pair, *hashes, imported=manifest.fingerprint.imported)
            for problem in changed:
                find(pair.key, problem)
            if len(same) < share and not changed and columns.status[pair.row] == OK:
                same.append(
                    (pair, columns.image[pair.row], columns.text[pair.row, : len(pair.captions)])
                )
    except ShardError as error:
        find(None, f"its source can't be read: {error.detail}")
        return same
    report.pairs_compared += count
    if count < len(columns.keys):
        find(None, f"its source has {count} pairs, the cache {len(columns.keys)} rows")
    if not manifest.fingerprint.imported and reader.sha256 != footer.source_sha256:
        find(None, "its source is not what was scored: the SHA-256 differs")
    return same


def _encode_again(report: VerifyReport, manifest: Manifest, chosen: list[Scored]) -> None:
    try:
        # Only this part needs torch and the reference's weights.
        from rhocache_workers.encode.viewer import Viewer
        from rhocache_workers.reference.model import load_reference

        reference = load_reference(manifest.reference)
    except (ImportError, RhocacheError) as error:
        report.notes.append(f"no pair was encoded again: {error}")
        return
    fingerprint = manifest.fingerprint
    try:
        viewer = Viewer(reference.preprocess, manifest.fingerprint.drawn)
        reference.check_made(manifest, report.cache)
    except InvalidInput as error:
        report.notes.append(f"no pair was encoded again: {error}")
        return
    except CacheError as error:
        report.findings.append(Finding(manifest.reference.model, str(error)))
        return
    differences = []
    for pair, image, text in chosen:
        pixels = viewer((pair.shard, pair.key), open_image(pair.image or b""))
        again = (
            reference.encode_images(pixels),
            reference.encode_texts(reference.tokenizer(list(pair.captions))),
        )
        differences.append(
            max(
                float(np.abs(a.numpy() - b).max())
                for a, b in zip(again, (image, text), strict=True)
            )
        )
    report.pairs_encoded_again = len(chosen)
    report.largest_difference = largest = max(differences)
    if largest > ARITHMETIC[fingerprint.precision] + ROUNDING[fingerprint.dtype]:
        report.findings.append(
            Finding(
                manifest.reference.model,
                f"encoded again, an embedding differs by {largest:.2g}",
            )
        )
