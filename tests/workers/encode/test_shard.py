"""Rows against a loop written with nothing but open_clip, PIL and tarfile."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import xxhash
from PIL import Image, ImageOps

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.shard_file import ShardFileWriter, ShardRows
from rhocache_schemas.dataset.augmentation import ViewDraws, draw_view
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.job.views import Views
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode import shard as encoding
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.decode import ThreadDecoder
from rhocache_workers.encode.shard import Preparation, encode_shard
from rhocache_workers.encode.viewer import Viewer
from rhocache_workers.reference.model import Reference, load_reference
from rhocache_workers.stage_times import Stages


@pytest.fixture(scope="module")
def reference(reference_folder: Path) -> Reference:
    return load_reference(ReferenceSpec(model=f"local-dir:{reference_folder}"))


def encode(reference: Reference, tar: Path, batch_size: int = 4, **options) -> tuple:
    """The rows of its shard file, and the shard's SHA-256."""
    (shard,) = list_shards(str(tar))
    reader = ShardReader(shard, options.pop("caption_field", None))
    views = options.pop("views", Views())
    stages, decoder = Stages(), ThreadDecoder(Viewer(reference.preprocess, views), threads=2)
    sink = io.BytesIO()
    writer = ShardFileWriter(
        sink,
        views=views.count,
        captions=1,
        dimension=32,
        dtype=np.dtype(options.pop("dtype", "float32")),
    )
    preparation = options.pop("preparation", None) or Preparation(reference, views.count)
    rows = preparation.rows(reader, decoder, stages)
    towers = Towers(reference, batch_size)
    seen = list(encode_shard(rows, towers, decoder, writer, stages, views.count))
    assert seen == sorted(seen)
    writer.close("f", reader.sha256)
    return shard_file.decode(sink.getvalue(), "here")[0], reader.sha256


def plain_loop(folder: Path, tar: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys, image and text embeddings [n, d], one pair at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    keys, images, texts = [], [], []
    with tarfile.open(tar) as archive, torch.no_grad():
        for name in archive.getnames():
            if not name.endswith(".jpg"):
                continue
            key = name.removesuffix(".jpg")
            image = Image.open(io.BytesIO(archive.extractfile(name).read()))
            caption = archive.extractfile(f"{key}.txt").read().decode()
            keys.append(key)
            images.append(model.encode_image(preprocess(image)[None], normalize=True)[0].numpy())
            texts.append(model.encode_text(tokenizer([caption]), normalize=True)[0].numpy())
    return keys, np.stack(images), np.stack(texts)


VIEWS = Views(count=3, seed=5, scale=(0.3, 1.0), flip=0.5)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_views_equal_open_clips_own_of_pictures_cut_by_hand(
    reference: Reference, reference_folder: Path, dataset: Path, batch_size: int
) -> None:
    tar = dataset / "00001.tar"
    rows, _ = encode(reference, tar, batch_size, views=VIEWS)
    keys, images, texts = plain_loop(reference_folder, tar)
    assert rows.image.shape == (8, 3, 32)
    np.testing.assert_allclose(rows.image[:, 0], images, atol=1e-5, rtol=0)
    np.testing.assert_allclose(rows.similarity, (images * texts).sum(axis=1), atol=1e-5, rtol=0)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{reference_folder}")
    mirrored = 0
    with tarfile.open(tar) as archive, torch.no_grad():
        for row, key in enumerate(keys):
            image = Image.open(archive.extractfile(f"{key}.jpg")).convert("RGB")
            for number in (1, 2):
                view = draw_view(*image.size, VIEWS, ViewDraws(5, "00001.tar", key, number))
                # Already of the reference's size: its own transform then only makes numbers of it.
                cut = image.resize(reference.image_size, Image.Resampling.BICUBIC, box=view.box)
                cut = ImageOps.mirror(cut) if view.mirrored else cut
                mirrored += view.mirrored
                expected = model.eval().encode_image(preprocess(cut)[None], normalize=True)[0]
                np.testing.assert_allclose(rows.image[row, number], expected, atol=1e-5, rtol=0)
    assert 0 < mirrored < 16


def test_equal_pictures_of_different_pairs_are_cut_apart_and_captions_are_shared(
    reference: Reference, pictures: list, write_tar: Callable, tmp_path: Path
) -> None:
    twice = [
        {f"{key}.{name.partition('.')[2]}": data for name, data in pictures[0].items()}
        for key in "ab"
    ]
    rows, _ = encode(reference, write_tar(tmp_path / "0.tar", twice), views=VIEWS)
    assert np.array_equal(rows.image[0, 0], rows.image[1, 0])
    assert not np.allclose(rows.image[0, 1], rows.image[1, 1], atol=1e-3)
    assert np.array_equal(rows.text[0], rows.text[1])


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_rows_equal_open_clips_own(
    reference: Reference, reference_folder: Path, dataset: Path, batch_size: int
) -> None:
    tar = dataset / "00001.tar"
    rows, sha256 = encode(reference, tar, batch_size)
    keys, images, texts = plain_loop(reference_folder, tar)
    assert rows.keys == keys
    assert rows.status == ["ok"] * 8
    np.testing.assert_allclose(rows.image[:, 0], images, atol=1e-5, rtol=0)
    np.testing.assert_allclose(rows.text[:, 0], texts, atol=1e-5, rtol=0)
    np.testing.assert_allclose(rows.similarity, (images * texts).sum(1), atol=1e-5, rtol=0)
    assert rows.similarity.dtype == np.float32
    assert sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()


def test_the_similarity_is_taken_before_rounding(reference: Reference, dataset: Path) -> None:
    exact, _ = encode(reference, dataset / "00000.tar")
    half, _ = encode(reference, dataset / "00000.tar", dtype="float16")
    assert half.image.dtype == np.float16
    np.testing.assert_array_equal(half.image, exact.image.astype(np.float16))
    np.testing.assert_array_equal(half.similarity, exact.similarity)


def test_hashes_are_of_the_stored_bytes(
    reference: Reference, dataset: Path, pictures: list[dict[str, bytes]]
) -> None:
    rows, _ = encode(reference, dataset / "00000.tar")
    for row, members in enumerate(pictures[:8]):
        jpg, txt = (next(v for k, v in members.items() if k.endswith(s)) for s in (".jpg", ".txt"))
        assert rows.image_hash[row] == xxhash.xxh3_128_digest(jpg)
        assert rows.caption_hash[row] == xxhash.xxh3_128_digest(txt)


def png(mode: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "PNG")
    return buffer.getvalue()


def test_bad_pairs_become_rows_and_leave_the_others_alone(
    reference: Reference, tmp_path: Path, pictures: list[dict[str, bytes]], write_tar: Callable
) -> None:
    bad = {
        "cut": ({"jpg": next(iter(pictures[0].values()))[:700], "txt": b"x"}, "image_undecodable"),
        "html": ({"jpg": b"<html>no</html>", "txt": b"x"}, "image_undecodable"),
        "thin": ({"png": png("RGB", (1, 300)), "txt": b"x"}, "image_too_small"),
        "wide": ({"png": png("1", (20_000, 6_000)), "txt": b"x"}, "image_too_large"),
        "blank": ({"jpg": b"", "txt": b" \n"}, "text_missing"),
        "mute": ({"png": png("RGB")}, "text_missing"),
        "blind": ({"txt": b"x"}, "image_missing"),
        "latin": ({"png": png("RGB"), "txt": "Ü".encode("latin-1")}, "text_not_utf8"),
    }
    good = pictures[:8]
    mixed = []
    for members, (key, (parts, _)) in zip(good, bad.items(), strict=True):
        mixed += [members, {f"{key}.{suffix}": data for suffix, data in parts.items()}]
    rows, _ = encode(reference, write_tar(tmp_path / "mixed.tar", mixed))
    alone, _ = encode(reference, write_tar(tmp_path / "good.tar", good))

    assert dict(zip(rows.keys[1::2], rows.status[1::2], strict=True)) == {
        key: code for key, (_, code) in bad.items()
    }
    assert np.isnan(rows.image[1::2]).all()
    assert np.isnan(rows.text[1::2]).all()
    assert np.isnan(rows.similarity[1::2]).all()
    np.testing.assert_array_equal(rows.image[0::2], alone.image)
    np.testing.assert_array_equal(rows.text[0::2], alone.text)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_of_a_stored_picture_is_read(
    reference: Reference, tmp_path: Path, write_tar: Callable, mode: str
) -> None:
    tar = write_tar(tmp_path / "a.tar", [{"a.png": png(mode), "a.txt": b"x"}])
    rows, _ = encode(reference, tar)
    assert rows.status == ["ok"]


def test_a_caption_from_a_field_of_the_json(
    reference: Reference, tmp_path: Path, write_tar: Callable
) -> None:
    members = {"a.png": png("RGB"), "a.txt": b"one", "a.json": b'{"alt": "two"}'}
    tar = write_tar(tmp_path / "a.tar", [members])
    rows, _ = encode(reference, tar, caption_field="alt")
    assert rows.caption_hash == [xxhash.xxh3_128_digest(b"two")]


def test_a_caption_that_has_no_utf8(
    reference: Reference, tmp_path: Path, write_tar: Callable
) -> None:
    members = {"a.png": png("RGB"), "a.json": rb'{"alt": "\ud800"}'}
    rows, _ = encode(reference, write_tar(tmp_path / "a.tar", [members]), caption_field="alt")
    assert rows.status == ["text_not_utf8"]


def only_row(reference: Reference, tmp_path: Path, write_tar: Callable) -> ShardRows:
    tar = write_tar(tmp_path / "a.tar", [{"a.png": png("RGB"), "a.txt": b"x"}])
    rows, _ = encode(reference, tar)
    return rows


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_embedding_without_a_direction_is_a_row_error(
    reference_folder: Path, tmp_path: Path, write_tar: Callable, value: float
) -> None:
    reference = load_reference(ReferenceSpec(model=f"local-dir:{reference_folder}"))
    reference.model.visual.proj.data.fill_(value)
    rows = only_row(reference, tmp_path, write_tar)
    assert rows.status == ["non_finite_embedding"]
    assert np.isnan(rows.image).all()


def test_a_truncated_shard_is_a_shard_error(reference: Reference, dataset: Path) -> None:
    tar = dataset / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:-20_000])
    with pytest.raises(ShardError) as caught:
        encode(reference, tar)
    assert caught.value.code == ShardErrorCode.TAR_TRUNCATED


def test_an_empty_shard_has_no_rows(
    reference: Reference, tmp_path: Path, write_tar: Callable
) -> None:
    rows, _ = encode(reference, write_tar(tmp_path / "a.tar", []))
    assert rows.keys == []
    assert rows.image.shape == (0, 1, 32)


def test_row_groups_hold_a_window_each(
    reference: Reference, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = encode(reference, dataset / "00000.tar")
    monkeypatch.setattr(encoding, "WINDOW", 3)
    parts, _ = encode(reference, dataset / "00000.tar")
    assert parts.keys == whole.keys
    np.testing.assert_allclose(parts.image, whole.image, atol=1e-6, rtol=0)
    np.testing.assert_allclose(parts.text, whole.text, atol=1e-6, rtol=0)


def test_what_repeats_is_encoded_once(
    reference: Reference, tmp_path: Path, write_tar: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts = [png("RGB"), png("L"), b"no image"], [b"one", b"two"]
    pairs = [{f"{i}.png": images[i % 3], f"{i}.txt": texts[i % 2]} for i in range(12)]
    tar = write_tar(tmp_path / "a.tar", pairs)
    counts = {"images": 0, "texts": 0}

    def counted(name: str, towers: Towers, inputs: object, method: Callable) -> object:
        counts[name] += len(inputs)
        return method(towers, inputs)

    for name in counts:
        method = getattr(Towers, name)
        monkeypatch.setattr(
            Towers, name, lambda self, x, name=name, method=method: counted(name, self, x, method)
        )
    shared = Preparation(reference)
    first, _ = encode(reference, tar, preparation=shared)
    assert counts == {"images": 2, "texts": 2}
    assert first.status == ["ok", "ok", "image_undecodable"] * 4
    again, _ = encode(reference, tar, preparation=shared)
    assert counts == {"images": 2, "texts": 2}
    np.testing.assert_array_equal(again.image, first.image)
    np.testing.assert_array_equal(again.text, first.text)
    assert (first.image[0] == first.image[3]).all()
    assert (first.image[0] != first.image[1]).any()
