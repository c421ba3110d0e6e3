"""Rows of other caches are taken where the pairs are the same; only the others are encoded."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import caches
import numpy as np
import pandas as pd
import pytest

from rhocache_schemas import layout
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.dataset.pair import Pair, hash_caption, hash_image
from rhocache_schemas.errors import CacheNotFound, FingerprintMismatch, InvalidInput, UriNotAllowed
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.views import Views
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode import reuse
from rhocache_workers.encode import shard as encoding
from rhocache_workers.encode.batches import Towers
from rhocache_workers.run.driver import ScoreSummary, score
from rhocache_workers.run.preview import preview

Members = dict[str, bytes]
Made = Callable[..., ScoreSpec]


@pytest.fixture(scope="module")
def first(job_of: Made, pictures: list[Members]) -> ScoreSpec:
    """A job that is done, in this process: three shards of 8 pairs."""
    spec = job_of("first", pictures[:24])
    score(spec, here=True)
    return spec


@pytest.fixture
def again(tmp_path: Path, first: ScoreSpec) -> Made:
    """That job with another output, which takes the rows of the first."""

    def made(name: str, **fields: Any) -> ScoreSpec:
        own = {"output": str(tmp_path / name), "reuse": [first.output]}
        return first.model_copy(update=own | fields)

    return made


@dataclass
class Seen:
    """What goes through the towers of this process after they were calibrated."""

    images: int = 0
    texts: int = 0
    calibrating: bool = field(default=True, init=False)

    def hear(self, progress: Progress) -> None:
        if self.calibrating and progress.steps[-1].name == "encoding":
            self.images, self.texts, self.calibrating = 0, 0, False


def score_seen(spec: ScoreSpec, monkeypatch: pytest.MonkeyPatch) -> tuple[ScoreSummary, Seen]:
    seen = Seen()

    def images(self: Towers, pixels: Any, real: Callable = Towers.images) -> Any:
        seen.images += len(pixels)
        return real(self, pixels)

    def texts(self: Towers, tokens: Any, real: Callable = Towers.texts) -> Any:
        seen.texts += len(tokens)
        return real(self, tokens)

    with monkeypatch.context() as patched:
        patched.setattr(Towers, "images", images)
        patched.setattr(Towers, "texts", texts)
        return score(spec, here=True, on_progress=seen.hear), seen


def read(spec: ScoreSpec) -> dict[str, ShardRows]:
    """By shard, each file as its index has it."""
    cache = CacheReader.open(spec.output)
    names = list(cache.index)
    return {name: shard_file.decode(cache.shard_bytes(name), name)[0] for name in names}


def contents(spec: ScoreSpec) -> dict[str, str]:
    return {name: row.content_sha256 for name, row in CacheReader.open(spec.output).index.items()}


def from_scratch(spec: ScoreSpec) -> dict[str, str]:
    """The hashes of the rows of each shard where nothing is reused."""
    scratch = spec.model_copy(
        update={"output": f"{spec.output}-scratch", "reuse": [], "remote_decoders": None}
    )
    assert score(scratch, here=True).reused_pairs == 0
    return contents(scratch)


@pytest.fixture
def resharded(tmp_path: Path, pictures: list[Members], write_tar: Callable) -> str:
    """The pairs from the last to the first, in other tars, of which one is more than a window."""
    turned = pictures[::-1]
    for name, part in {"a": turned[:5], "b": turned[5:20], "c": turned[20:]}.items():
        write_tar(tmp_path / "resharded" / f"{name}.tar", part)
    return str(tmp_path / "resharded")


def test_pairs_in_other_shards_are_not_encoded(
    again: Made, resharded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = again("reused", dataset=resharded)
    assert preview(spec).done_shards == 0
    summary, seen = score_seen(spec, monkeypatch)
    assert (summary.ok, summary.reused_pairs, seen.images, seen.texts) == (24, 24, 0, 0)
    assert contents(spec) == from_scratch(spec)
    run = Progress.read(layout.progress_file(spec.output)).run
    assert (run.pairs_reused, run.pairs_ok) == (24, 24)
    ours, theirs = (CacheReader.open(uri).manifest for uri in (spec.output, spec.reuse[0]))
    assert ours.rounding is not None
    assert theirs.rounding is not None
    assert ours.rounding.similarity.p99 == theirs.rounding.similarity.p99


def test_only_new_pairs_are_encoded(
    again: Made,
    pictures: list[Members],
    write_tar: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some are gone, one has another caption, one another picture, and one is new."""
    kept = [dict(members) for members in pictures[6:20]]
    caption = next(name for name in kept[3] if name.endswith(".txt"))
    kept[3][caption] = b"another caption"
    own, other = (
        next(name for name in pair if name.endswith(".jpg")) for pair in (kept[5], pictures[0])
    )
    kept[5][own] = pictures[0][other]
    kept.append({"new.jpg": pictures[1][next(iter(pictures[1]))], "new.txt": b"a new pair"})
    write_tar(tmp_path / "extended" / "00000.tar", kept)
    spec = again("extended", dataset=str(tmp_path / "extended"))
    summary, seen = score_seen(spec, monkeypatch)
    assert (summary.ok, summary.reused_pairs, seen.images, seen.texts) == (15, 12, 3, 3)
    assert contents(spec) == from_scratch(spec)


def test_pairs_in_another_format_are_not_encoded(
    again: Made,
    first: ScoreSpec,
    pictures: list[Members],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table: list[dict[str, Any]] = []
    for members in pictures[:20]:
        by_suffix = {name.rpartition(".")[2]: (name, data) for name, data in members.items()}
        name, image = by_suffix["jpg"]
        caption = by_suffix["txt"][1].decode()
        table.append({"id": name.partition(".")[0], "picture": image, "caption": caption})
    (tmp_path / "parquet").mkdir()
    pd.DataFrame(table).to_parquet(tmp_path / "parquet" / "0.parquet")
    columns = {"image_column": "picture", "key_column": "id"}
    spec = again("of-parquet", dataset=str(tmp_path / "parquet"), **columns)
    summary, seen = score_seen(spec, monkeypatch)
    assert (summary.reused_pairs, seen.images, seen.texts) == (20, 0, 0)
    found = read(spec)
    before = list(read(first).values())
    for name in ("image", "text", "similarity"):
        ours = np.concatenate([getattr(rows, name) for rows in found.values()])
        theirs = np.concatenate([getattr(rows, name) for rows in before])
        np.testing.assert_array_equal(ours, theirs[:20])


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_rows_are_taken_bit_for_bit(
    dtype: str, again: Made, resharded: str, pictures: list[Members], write_tar: Callable
) -> None:
    before = again("before", dtype=dtype, reuse=[])
    score(before, here=True)
    write_tar(
        Path(resharded, "d.tar"), [{"n.jpg": next(iter(pictures[2].values())), "n.txt": b"n"}]
    )
    spec = again("after", dtype=dtype, dataset=resharded, reuse=[before.output])
    assert score(spec, here=True).reused_pairs == 24
    assert contents(spec) == from_scratch(spec)


def test_drawn_views_are_those_of_their_shard_and_key(
    again: Made, resharded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = {"views": Views(count=3, seed=4)}
    before = again("before", reuse=[], **views)
    score(before, here=True)
    same = again("same", reuse=[before.output], **views)
    summary, seen = score_seen(same, monkeypatch)
    assert (summary.reused_pairs, seen.images) == (24, 0)
    assert contents(same) == contents(before)
    moved = again("moved", dataset=resharded, reuse=[before.output], **views)
    summary, seen = score_seen(moved, monkeypatch)
    assert (summary.reused_pairs, seen.images) == (0, 72)


def test_of_rows_that_look_alike_only_the_pairs_own_is_taken(
    again: Made, resharded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every mix collides, the first row is found for each pair, and is that of one."""
    monkeypatch.setattr(reuse, "_mix", lambda words, _: np.zeros(len(words), np.uint64))
    spec = again("colliding", dataset=resharded)
    assert score(spec, here=True).reused_pairs == 1
    assert contents(spec) == from_scratch(spec)


def test_row_groups_that_are_not_kept_are_read_again(
    again: Made, resharded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 3)
    before = again("before", reuse=[])
    score(before, here=True)
    monkeypatch.setattr(reuse, "_GROUP_BYTES", 0)
    monkeypatch.setattr(encoding, "WINDOW_BYTES", 1)  # each pair is looked up alone
    spec = again("after", dataset=resharded, reuse=[before.output])
    assert score(spec, here=True).reused_pairs == 24
    assert contents(spec) == from_scratch(spec)


def test_what_is_damaged_or_gone_is_encoded(
    again: Made,
    first: ScoreSpec,
    resharded: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it goes between the look at the cache and the reading of its rows."""
    copied = str(tmp_path / "copied")
    shutil.copytree(first.output, copied)
    tabulate = reuse.tabulate

    def tabulate_then_damage(cache: CacheReader) -> reuse.Table:
        table = tabulate(cache)
        flipped = Path(layout.shard_file(copied, "00000.tar"))
        data = bytearray(flipped.read_bytes())
        data[len(data) // 2] ^= 1
        flipped.write_bytes(data)
        Path(layout.shard_file(copied, "00001.tar")).unlink()
        return table

    monkeypatch.setattr("rhocache_workers.run.driver.tabulate", tabulate_then_damage)
    spec = again("after", dataset=resharded, reuse=[copied])
    with caplog.at_level(logging.WARNING):
        assert score(spec, here=True).reused_pairs == 8
    told = [record.getMessage() for record in caplog.records if record.name == reuse.__name__]
    assert len(told) == 2
    assert any("00000.tar.parquet has SHA-256" in each for each in told)
    assert any("00001.tar.parquet is in the index" in each for each in told)
    assert contents(spec) == from_scratch(spec)


def test_a_cache_that_is_committed_anew_is_not_reused(
    again: Made, resharded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = again("before", reuse=[])
    score(before, here=True)
    tabulate = reuse.tabulate

    def tabulate_then_commit(cache: CacheReader) -> reuse.Table:
        table = tabulate(cache)
        score(before.model_copy(update={"dtype": "float32", "replace": True}), here=True)
        return table

    monkeypatch.setattr("rhocache_workers.run.driver.tabulate", tabulate_then_commit)
    spec = again("after", dataset=resharded, reuse=[before.output])
    assert score(spec, here=True).reused_pairs == 0
    assert contents(spec) == from_scratch(spec)


def test_caches_of_format_1_are_found_by_their_shorter_hashes(tmp_path: Path) -> None:
    made = {"one": "a caption", "two": "a caption"}
    found = []
    for number, (name, caption) in enumerate(made.items()):
        vectors = np.full((1, 1, 4), 0.5 + number, np.float16)
        hashes = [hash_image(b"image", 8)], [hash_caption(caption, 8)]
        rows = ShardRows(["0"], ["ok"], vectors, vectors, np.ones(1, np.float32), *hashes)
        caches.commit(tmp_path / name, {"0.tar": rows})
        found.append(reuse.tabulate(CacheReader.open(str(tmp_path / name))))
    pairs = [
        Pair("1.tar", number, str(number), image, caption)
        for number, (image, caption) in enumerate([(b"image", "a caption"), (b"image", "another")])
    ]
    hashes = [(pair.image_hash, pair.caption_hash) for pair in pairs]
    taken, missing = reuse.Reused(found).find(pairs, hashes)
    assert missing is None
    assert taken is not None
    assert taken.image[0, 0] == 0.5, "the first cache's"


def test_a_run_goes_on_and_looks_only_at_what_it_is_asked_for(again: Made, resharded: str) -> None:
    spec = again("after", dataset=resharded, limit=7)
    summary = score(spec, here=True)
    assert (summary.rows, summary.reused_pairs) == (7, 7)
    whole = spec.model_copy(update={"limit": None})
    assert score(whole, here=True).reused_pairs == 19, "a.tar was done"
    Path(layout.shard_file(spec.output, "b.tar")).unlink()
    Path(layout.manifest_file(spec.output)).unlink()
    summary = score(whole, here=True)
    assert (summary.encoded_shards, summary.reused_pairs) == (1, 15)
    gone = whole.model_copy(update={"reuse": ["/nowhere"]})
    assert score(gone, here=True).encoded_shards == 0, "nothing is left that could be reused"


def test_encoders_in_ray_reuse_and_decode_elsewhere(
    again: Made, resharded: str, pictures: list[Members], write_tar: Callable, ray_address: str
) -> None:
    new = {"new.jpg": next(iter(pictures[2].values())), "new.txt": b"a new pair"}
    write_tar(Path(resharded, "d.tar"), [new, pictures[3]])
    spec = again("in-ray", dataset=resharded, remote_decoders=1)
    summary = score(spec, ray_address=ray_address)
    assert (summary.ok, summary.reused_pairs) == (26, 25)
    assert contents(spec) == from_scratch(spec)


def test_caches_that_can_not_be_reused(
    again: Made, resharded: str, make_reference: Callable, tmp_path: Path
) -> None:
    spec = again("new", dataset=resharded)

    def refused(error: type[Exception], told: str, **fields: Any) -> None:
        with pytest.raises(error, match=told):
            score(spec.model_copy(update=fields), here=True)
        assert not list(tmp_path.glob("new/plan.json"))

    refused(InvalidInput, "is the output itself", reuse=[spec.output])
    refused(CacheNotFound, "no cache at /nowhere", reuse=["/nowhere"])
    refused(FingerprintMismatch, r'dtype \(cache: "float16", now: "float32"\)', dtype="float32")
    other = ReferenceSpec(model=f"local-dir:{make_reference(1)}")
    refused(FingerprintMismatch, r"weights_sha256 \(cache: .*, now: .*\)", reference=other)
    with pytest.raises(UriNotAllowed, match="is not under an allowed root"):
        score(spec, here=True, roots=[resharded, str(tmp_path / "new")])
