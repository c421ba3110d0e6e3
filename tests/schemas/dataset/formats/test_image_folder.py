"""Folders of images with their captions beside them."""

from pathlib import Path

from made_pairs import make_pairs, write_folder

from rhocache_schemas.dataset.formats.image_folder import ImageFolder
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.source import Source


def read(folder: Path, caption_field: str | None = None) -> list[Pair]:
    dataset = ImageFolder(Source(dataset=str(folder), caption_field=caption_field))
    return [dataset.load(pair) for shard in dataset.shards for pair in dataset.read(shard)]


def test_files_that_are_not_what_they_should_be(tmp_path: Path):
    made = make_pairs(0)[:6]
    folder = write_folder(tmp_path / "files", made)
    (folder / "0000.txt").unlink()
    (folder / "0001.txt").write_bytes(b"\xff")
    (folder / "0002.txt").write_text(" \n")
    (folder / "0003.txt").write_bytes(b"x" * ((4 << 20) + 1))
    (folder / "0004.jpg").write_bytes(b"")
    pairs = read(folder)
    assert [(pair.key, pair.error) for pair in pairs] == [
        ("0000", "text_missing"),
        ("0001", "text_not_utf8"),
        ("0002", "text_missing"),
        ("0003", "text_missing"),
        ("0004", "image_missing"),
        ("0005", None),
    ]
    assert "there is no caption beside 0000.jpg" in pairs[0].detail
    assert "at most 4194304" in pairs[3].detail
    assert pairs[5].content() == (made[5].image, made[5].caption)


def test_a_file_that_is_gone_since_the_folder_was_listed(tmp_path: Path):
    folder = write_folder(tmp_path / "files", make_pairs(0)[:2])
    dataset = ImageFolder(Source(dataset=str(folder)))
    (folder / "0000.jpg").unlink()
    (folder / "0001.txt").unlink()
    loaded = [dataset.load(pair) for pair in dataset.read(dataset.shards[0])]
    assert [pair.error for pair in loaded] == ["image_missing", "text_missing"]
    assert all("has no 000" in pair.detail for pair in loaded)


def test_captions_from_a_field(tmp_path: Path):
    folder = write_folder(tmp_path / "files", make_pairs(0)[:2])
    (folder / "0000.json").write_text('{"alt": ["", "first", "second"]}')
    (folder / "0001.json").write_text('{"other": "x"}')
    first, second = read(folder, "alt")
    assert first.caption == "first"
    assert first.metadata == b'{"alt": ["", "first", "second"]}'
    assert (second.error, second.detail) == ("text_missing", "it has no caption")


def test_of_several_images_the_first_suffix_counts(tmp_path: Path):
    folder = write_folder(tmp_path / "files", make_pairs(0)[:1])
    (folder / "0000.webp").write_bytes(b"another")
    (folder / "0000.PNG").write_bytes(b"a third")
    (pair,) = read(folder)
    assert pair.image == make_pairs(0)[0].image
