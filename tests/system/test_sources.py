"""The same pairs from every kind of source: scored to the same rows, and trained from alike."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_pairs import MadePair, make_pairs, write_csv, write_folder, write_parquet, write_tar
from PIL import Image

from rhocache_schemas import layout
from rhocache_schemas.api import Range
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.dataset.formats import csv, image_folder, open_dataset, parquet
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import (
    DatasetError,
    FingerprintMismatch,
    PairMismatch,
    RhocacheError,
    UriNotAllowed,
)
from rhocache_schemas.job.allowed_roots import open_allowed
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_service.caches.images import Pictures
from rhocache_service.caches.search import with_words
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database
from rhocache_service.settings import Settings
from rhocache_trainer import TrainConfig, TrainResult, evaluate, evaluate_cache, train
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.open import open_pairs
from rhocache_workers.maintain.verify import verify
from rhocache_workers.plan.estimate import estimate
from rhocache_workers.run.driver import ScoreSummary, score
from rhocache_workers.run.preview import preview

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PLACE = {"dataset": "", "cache": None, "shards": []}  # of an evaluation
BLOCK = 8  # pairs of a shard that is no tar


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (csv, image_folder, parquet):
            patch.setattr(module, "BLOCK", BLOCK)
        yield


def made() -> list[MadePair]:
    pairs = [
        replace(pair, key=f"{shard:05}{pair.key}")
        for shard in range(2)
        for pair in make_pairs(shard)
    ]
    pairs[5].caption = "picture 0 is red"  # of the first: embedded once
    return pairs


def rows_of(pairs: list[MadePair]) -> list[dict]:
    return [{"image": pair.image, "caption": pair.caption, "key": pair.key} for pair in pairs]


def tars(folder: Path, pairs: list[MadePair]) -> Path:
    for first in range(0, len(pairs), BLOCK):
        write_tar(folder / f"{first // BLOCK:05}.tar", pairs[first : first + BLOCK])
    return folder


def compressed(folder: Path, pairs: list[MadePair]) -> Path:
    for number, tar in enumerate(sorted(tars(folder, pairs).iterdir())):
        if number % 2:
            tar.with_suffix(".tar.zst").write_bytes(
                pa.Codec("zstd").compress(tar.read_bytes(), asbytes=True)
            )
        else:
            tar.with_suffix(".tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
        tar.unlink()
    return folder


def huggingface(folder: Path, pairs: list[MadePair]) -> Path:
    """Two files, with an image as a struct of large types, and captions as a dictionary."""
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    folder.mkdir(parents=True)
    for number, part in enumerate((pairs[:16], pairs[16:])):
        images = [{"bytes": pair.image, "path": f"{pair.key}.jpg"} for pair in part]
        captions = pa.array([pair.caption for pair in part]).dictionary_encode()
        table = pa.table({"image": pa.array(images, kind), "text": captions})
        pq.write_table(table, folder / f"train-{number}.parquet", row_group_size=4)
    return folder


def img2dataset(folder: Path, pairs: list[MadePair]) -> Path:
    """Its layout ``files``, with what systems leave in between."""
    for number, part in enumerate((pairs[:12], pairs[12:])):
        write_folder(folder / f"{number:05}", part)
        content = [{"key": pair.key, "url": "x", "caption": pair.caption} for pair in part]
        pq.write_table(pa.Table.from_pylist(content), folder / f"{number:05}.parquet")
        (folder / f"{number:05}_stats.json").write_text("{}")
        for name in ("._a", ".ipynb_checkpoints/b", "__MACOSX/c"):
            hidden = folder / f"{number:05}" / f"{name}.jpg"
            hidden.parent.mkdir(exist_ok=True)
            hidden.write_bytes(pairs[0].image)
            hidden.with_suffix(".txt").write_text("hidden")
    return folder


WRITERS: dict[str, Callable[[Path, list[MadePair]], Path]] = {
    "tars": tars,
    "compressed tars": compressed,
    "Parquet": lambda folder, pairs: write_parquet(folder / "p.parquet", rows_of(pairs), group=4),
    "Hugging Face's Parquet": huggingface,
    "CSV": lambda folder, pairs: write_csv(folder / "p.csv", rows_of(pairs)),
    "folder": write_folder,
    "img2dataset's files": img2dataset,
}

# How a source calls a pair, where that is not its key alone.
KEYS = {"Hugging Face's Parquet": "{}.jpg", "img2dataset's files": "{1}/{0}"}


@pytest.fixture
def spec(tmp_path: Path, reference_folder: Path) -> ScoreSpec:
    return ScoreSpec(
        dataset="nowhere",
        output=str(tmp_path / "cache"),
        reference=ReferenceSpec(model=f"local-dir:{reference_folder}"),
        dtype="float32",
        batch_size=BLOCK,
        metadata={},
    )


def at(spec: ScoreSpec, dataset: Path | str, **changes) -> ScoreSpec:
    return spec.model_copy(update={"dataset": str(dataset), **changes})


def scored(spec: ScoreSpec) -> ScoreSummary:
    return score(spec, here=True)


def rows(cache: str) -> list[ShardRows]:
    reader = CacheReader.open(cache)
    return [shard_file.decode(reader.shard_bytes(name), name)[0] for name in sorted(reader.index)]


def open_clips_own(folder: Path, pair: MadePair) -> tuple[np.ndarray, np.ndarray]:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        pixels = preprocess(Image.open(io.BytesIO(pair.image)))[None]
        image = model.encode_image(pixels, normalize=True)[0]
        text = model.encode_text(tokenizer([pair.caption]), normalize=True)[0]
    return image.numpy(), text.numpy()


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, reference_folder: Path
) -> dict[str, ScoreSpec]:
    """A finished job of each source."""
    root = tmp_path_factory.mktemp("sources")
    done: dict[str, ScoreSpec] = {}
    for name, write in WRITERS.items():
        done[name] = ScoreSpec(
            dataset=str(write(root / name, made())),
            output=str(root / "caches" / name),
            reference=ReferenceSpec(model=f"local-dir:{reference_folder}"),
            dtype="float32",
            batch_size=BLOCK,
            metadata={},
        )
        summary = scored(done[name])
        assert (summary.ok, summary.shards) == (24, 3), name
    return done


def test_every_source_gives_the_same_rows(
    sources: dict[str, ScoreSpec], reference_folder: Path
) -> None:
    pairs = made()
    found = {name: rows(spec.output) for name, spec in sources.items()}
    first = found["tars"]
    assert [key for row in first for key in row.keys] == [pair.key for pair in pairs]
    for name, shards in found.items():
        for ours, theirs in zip(shards, first, strict=True):
            named = [KEYS.get(name, "{}").format(key, key[:5]) for key in theirs.keys]
            assert ours.keys == named
            assert replace(ours, keys=theirs.keys).content_sha256() == theirs.content_sha256()
    for place in (0, 13, 23):
        image, text = open_clips_own(reference_folder, pairs[place])
        row = found["CSV"][place // BLOCK]
        np.testing.assert_allclose(row.image[place % BLOCK, 0], image, atol=1e-5, rtol=0)
        np.testing.assert_allclose(row.text[place % BLOCK, 0], text, atol=1e-5, rtol=0)
        assert row.similarity[place % BLOCK] == pytest.approx(image @ text, abs=1e-5)


def test_pages_and_plans_of_any_source(sources: dict[str, ScoreSpec], tmp_path: Path) -> None:
    pairs = made()
    registry = Registry(open_database(Settings(data_dir=tmp_path).registry_url))
    for name, spec in sources.items():
        roots = [str(Path(spec.dataset).parent), str(Path(spec.output).parent)]
        cache = CacheReader.open(spec.output)
        places = [(shard, row) for shard in cache.index for row in (0, 7)]
        found = Pictures(roots).read(cache.manifest, places)
        wanted = [pairs[place] for first in (0, 8, 16) for place in (first, first + 7)]
        assert [found[place].image for place in places] == [pair.image for pair in wanted], name
        look = with_words(cache, roots, "picture WHITE", 0)
        assert (len(look.pairs), look.captions) == (6, 24)
        told = kind_of(spec).preview(spec, [*roots, "/"], registry)
        assert (told.shards, told.shards_committed, told.pairs) == (3, 3, 24)
        new = spec.model_copy(update={"output": str(tmp_path / "new")})
        told = kind_of(spec).preview(new, ["/"], registry).predicted_pairs
        assert told is not None
        if "tars" not in name:
            assert told == Range(low=24, high=24)
        planned = estimate(spec.dataset, "ViT-B-32", device="h100")
        assert planned.pairs == pytest.approx(24, abs=5 if "tars" in name else 0)
        assert planned.pairs_estimated == ("tars" in name)
    registry.close()


def test_evaluation_of_any_source(sources: dict[str, ScoreSpec]) -> None:
    cached = [evaluate_cache(spec.output, spec.dataset) for spec in sources.values()]
    live = [
        evaluate(sources[name].reference.model, sources[name].dataset) for name in ("CSV", "tars")
    ]
    for found in (cached, live):
        assert {each.images for each in found} == {24}
        assert len({each.model_copy(update=PLACE).model_dump_json() for each in found}) == 1


@pytest.mark.parametrize("name", ["Parquet", "CSV", "folder"])
def test_only_what_has_changed_is_encoded_again(spec: ScoreSpec, tmp_path: Path, name: str) -> None:
    pairs, write = made(), WRITERS[name]
    spec = at(spec, write(tmp_path / "data", pairs))
    assert scored(spec).encoded_shards == 3
    assert scored(spec).encoded_shards == 0
    before = [row.content_sha256() for row in rows(spec.output)]
    later = Path(spec.dataset).stat().st_mtime_ns + 10**9
    write(tmp_path / "data", pairs)  # the same, at another time
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        os.utime(path, ns=(later, later))
    assert scored(spec).encoded_shards == 0
    pairs[12] = replace(pairs[12], caption=pairs[12].caption.upper())
    pairs.append(replace(pairs[0], key="99999"))
    write(tmp_path / "data", pairs)
    assert preview(spec).done_shards == 2
    summary = scored(spec)
    assert (summary.encoded_shards, summary.shards, summary.rows) == (2, 4, 25)
    after = [row.content_sha256() for row in rows(spec.output)]
    assert [one == other for one, other in zip(before, after, strict=False)] == [True, False, True]
    assert verify(spec.output, deep=True).findings == []


def test_an_image_that_a_csv_names_has_changed(spec: ScoreSpec, tmp_path: Path) -> None:
    pairs = made()
    spec = at(spec, write_csv(tmp_path / "p.csv", rows_of(pairs)))
    scored(spec)
    (tmp_path / "images" / "9.jpg").write_bytes(pairs[0].image)
    assert verify(spec.output, deep=True).findings[0].shard == "p.csv#00001"
    assert scored(spec).encoded_shards == 1


def test_what_a_run_left_that_did_not_end_is_kept(spec: ScoreSpec, tmp_path: Path) -> None:
    spec = at(spec, write_folder(tmp_path / "data", made()))
    scored(spec)
    Path(layout.manifest_file(spec.output)).unlink()
    Path(layout.index_file(spec.output)).unlink()
    assert scored(spec).encoded_shards == 0


def test_a_limit_and_a_glob(spec: ScoreSpec, tmp_path: Path) -> None:
    spec = at(spec, huggingface(tmp_path / "data", made()))
    some = scored(spec.model_copy(update={"limit": 10}))
    assert (some.rows, some.encoded_shards) == (10, 2)
    other = scored(spec.model_copy(update={"shards": "train-1*"}))
    assert (other.shards, other.encoded_shards) == (3, 1)
    assert scored(spec).encoded_shards == 1


def test_a_cache_of_any_source_trains_from_it_and_from_tars(
    sources: dict[str, ScoreSpec], tmp_path: Path
) -> None:
    """Every pair is given the row that was made of it: joining compares the hashes."""
    written = sources["tars"].dataset
    for name, spec in sources.items():
        # Tars are joined by their names, which differ.
        for dataset in {spec.dataset, spec.dataset if name == "compressed tars" else written}:
            joined = open_pairs(Data(dataset=dataset), spec.output)
            loaded = [joined.load(pair) for shard in joined.shards for pair in joined.read(shard)]
            assert sorted(pair.index for pair in loaded) == list(range(24)), (name, dataset)
            assert len({pair.pair.image for pair in loaded}) == 24
    parquet = sources["Parquet"]
    for number, dataset in enumerate((parquet.dataset, written)):
        assert trained(tmp_path / f"{number}", dataset, parquet.output).steps == 6
    pairs = made()
    pairs[0].image = pairs[1].image
    with pytest.raises(PairMismatch, match="the image is not the one that was scored"):
        trained(tmp_path / "changed", str(tars(tmp_path / "tars", pairs)), parquet.output)


def test_verify_and_preview_of_any_source(sources: dict[str, ScoreSpec]) -> None:
    for name, spec in sources.items():
        report = verify(spec.output, deep=True)
        assert (report.findings, report.pairs_compared) == ([], 24), name
        assert preview(spec).done_shards == 3


def trained(output: Path, dataset: str, cache: str) -> TrainResult:
    settings = {
        "output": str(output),
        "data": {"dataset": dataset},
        "model": TINY,
        "objective": {"name": "drrho", "rho": 1.0},
        "cache": cache,
        "batch_size": 4,
        "epochs": 1,
        "device": "cpu",
    }
    return train(TrainConfig.model_validate(settings))


def test_a_service_reads_nothing_outside_its_roots(spec: ScoreSpec, tmp_path: Path) -> None:
    pairs = made()
    (tmp_path / "secret").mkdir()
    secret = tmp_path / "secret" / "private.jpg"
    secret.write_bytes(pairs[0].image)
    secret.with_suffix(".txt").write_text("a secret")
    root = tmp_path / "root"
    table = write_csv(root / "table" / "p.csv", rows_of(pairs))
    image = root / "table" / "images" / "3.jpg"
    image.unlink()
    image.symlink_to(secret)
    files = write_folder(root / "files", pairs)
    (files / "zz.jpg").symlink_to(secret)
    (files / "zz.txt").write_text("a caption")
    (root / "parquet").mkdir()
    write_parquet(tmp_path / "secret" / "p.parquet", rows_of(pairs))
    (root / "parquet" / "p.parquet").symlink_to(tmp_path / "secret" / "p.parquet")
    for dataset in (table, files, root / "parquet"):
        asked = at(spec, dataset, output=str(root / "cache"))
        allowed = [str(root), asked.reference.local_dir or ""]
        with pytest.raises(UriNotAllowed, match="not under an allowed root"):
            score(asked, here=True, roots=allowed)
        with pytest.raises(UriNotAllowed, match="not under an allowed root"):
            kind_of(asked).validate(asked, allowed)
        assert open_dataset(asked.source).shards  # as who reads for himself may
    opened = open_allowed(Source(dataset=str(table), images=str(root / "table")), roots=None)
    assert opened.shards
    with table.open("a") as file:
        file.write("/etc/passwd,a caption,key\n")
    with pytest.raises(DatasetError, match="the image /etc/passwd lies outside"):
        score(at(spec, table), here=True)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Parquet", {"caption_column": "alt"}, "no column alt; it has image, caption, key"),
        ("CSV", {"image_column": "path"}, "no column path; it has filepath, title, key"),
        ("CSV", {"images": "/nowhere"}, "no pair of .* could be scored .*image_missing.*/nowhere"),
        ("Parquet", {"format": "folder"}, "is no folder|there is no folder"),
        ("folder", {"format": "parquet"}, r"holds no \.parquet file"),
        ("folder", {"caption_suffix": "outputs.txt"}, r"no caption \(outputs.txt\).*txt 24"),
        ("tars", {"image_suffix": "input.jpg"}, "suffixes: jpg 8, .*a pair is KEY.input.jpg with"),
        ("tars", {"caption_suffix": ";"}, "caption_suffix=';' is no suffix"),
        ("Parquet", {"caption_field": "alt"}, "caption_field=alt is of tars and folders"),
    ],
)
def test_what_can_not_be_read_is_told(
    spec: ScoreSpec, tmp_path: Path, name: str, changes: dict, message: str
) -> None:
    spec = at(spec, WRITERS[name](tmp_path / "data", made()), error_budget=1.0, **changes)
    with pytest.raises(RhocacheError, match=message):
        scored(spec)


def test_another_column_is_another_cache(spec: ScoreSpec, tmp_path: Path) -> None:
    content = [row | {"alt": f"another {row['caption']}"} for row in rows_of(made())]
    spec = at(spec, write_parquet(tmp_path / "p.parquet", content))
    scored(spec)
    other = spec.model_copy(update={"caption_column": "alt"})
    with pytest.raises(FingerprintMismatch, match=r'caption_column \(cache: null, now: "alt"\)'):
        preview(other)
    with pytest.raises(FingerprintMismatch, match="caption_column"):
        scored(other)
    scored(other.model_copy(update={"output": f"{spec.output}-2"}))
    manifest = Manifest.read(layout.manifest_file(f"{spec.output}-2"))
    assert (manifest.format, manifest.source.caption_column) == ("parquet", "alt")


def test_a_damaged_row_group_costs_its_shard(spec: ScoreSpec, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.parquet", rows_of(made()), group=BLOCK)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = group.data_page_offset
    data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    spec = at(spec, path, error_budget=1.0)
    summary = scored(spec)
    assert (summary.ok, summary.failed_shards) == (16, 1)
    assert summary.failures["p.parquet#00001"].startswith("table_damaged: ")


def test_members_of_other_suffixes(spec: ScoreSpec, tmp_path: Path) -> None:
    pairs = made()
    path = tmp_path / "data" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for pair in pairs:
            for suffix, data in (
                ("input.jpg", pair.image),
                ("mask.jpg", pairs[0].image),
                ("outputs.txt", pair.caption.encode()),
                ("txt", b"no caption"),
            ):
                info = tarfile.TarInfo(f"{pair.key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    chosen = {"image_suffix": "input.png;input.jpg", "caption_suffix": ".outputs.TXT"}
    files = tmp_path / "files"
    with tarfile.open(path) as tar:
        tar.extractall(files, filter="data")
    caches = [str(tmp_path / "of tars"), str(tmp_path / "of files")]
    for dataset, cache in zip((path.parent, files), caches, strict=True):
        assert scored(at(spec, dataset, output=cache, **chosen)).ok == 24
    one, many = map(rows, caches)
    assert one[0].image_hash == [each for row in many for each in row.image_hash]
    assert one[0].caption_hash == [each for row in many for each in row.caption_hash]
    assert one[0].image_hash == [hash_image(pair.image) for pair in pairs]
    assert one[0].caption_hash == [hash_caption(pair.caption) for pair in pairs]
    with pytest.raises(FingerprintMismatch, match="image_suffix"):
        open_pairs(Data(dataset=str(path)), caches[0])
    assert open_pairs(Data(dataset=str(path), **chosen), caches[0]).usable == 24
    assert open_pairs(Data(dataset=str(files), **chosen), caches[0]).usable == 24
