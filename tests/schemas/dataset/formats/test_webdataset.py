import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS, Limits, Pair
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import RowErrorCode, ShardError, ShardErrorCode

Member = tuple[str, bytes]

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def tar_of(members: list[Member | tarfile.TarInfo], **options) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def reader(folder: Path, data: bytes, limits: Limits = DEFAULT_LIMITS, **options) -> ShardReader:
    path = folder / "0.tar"
    path.write_bytes(data)
    return ShardReader(list_shards(str(path))[0], limits=limits, **options)


def read(folder: Path, data: bytes, limits: Limits = DEFAULT_LIMITS, **options) -> list[Pair]:
    return list(reader(folder, data, limits, **options))


def codes(pairs: list[Pair]) -> list[tuple[str, str | None]]:
    return [(pair.key, pair.error) for pair in pairs]


def test_pairs_in_tar_order_with_their_bytes(tmp_path: Path) -> None:
    data = tar_of(
        [("b.jpg", b"J"), ("b.txt", b"one"), ("b.json", b"{}"), ("a.txt", b"two"), ("a.png", b"P")]
    )
    stream = reader(tmp_path, data)
    assert list(stream) == [
        Pair("0.tar", 0, "b", b"J", "one", b"{}"),
        Pair("0.tar", 1, "a", b"P", "two", None),
    ]
    assert stream.sha256 == hashlib.sha256(data).hexdigest()


KEYS = st.text(
    st.characters(exclude_characters="./\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
PAIRS = st.lists(
    st.tuples(
        KEYS,
        st.sampled_from(["jpg", "jpeg", "png", "webp", "JPG", None]),
        st.sampled_from([b"a caption", "é🙂".encode(), b"\xff\xfe", b"", b" \n", None]),
        st.permutations(["image", "text", "json", "cls"]),
    ),
    unique_by=lambda pair: pair[0],
    max_size=8,
)


def expected_error(image: str | None, caption: bytes | None) -> RowErrorCode | None:
    if image is None:
        return RowErrorCode.IMAGE_MISSING
    if caption == b"\xff\xfe":
        return RowErrorCode.TEXT_NOT_UTF8
    if caption is None or not caption.strip():
        return RowErrorCode.TEXT_MISSING
    return None


@in_one_folder
@given(pairs=PAIRS, tar_format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_any_member_order_and_any_missing_half(tmp_path: Path, pairs, tar_format: int) -> None:
    members: list[Member | tarfile.TarInfo] = []
    expected = []
    for key, image, caption, order in pairs:
        files = {"json": (f"{key}.json", b"{}"), "cls": (f"{key}.cls", b"3")}
        if image is not None:
            files["image"] = (f"{key}.{image}", key.encode())
        if caption is not None:
            files["text"] = (f"{key}.txt", caption)
        members += [files[kind] for kind in order if kind in files]
        expected.append((key, key.encode() if image else None, expected_error(image, caption)))
    pairs_read = read(tmp_path, tar_of(members, format=tar_format))
    assert [(p.key, p.image, p.error) for p in pairs_read] == expected
    assert [p.row for p in pairs_read] == list(range(len(pairs)))


WHOLE = tar_of([(f"{k}.{s}", b"x" * 700) for k in "abc" for s in ("jpg", "txt")])


@in_one_folder
@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_truncated_tar_never_passes_for_a_whole_one(tmp_path: Path, length: int) -> None:
    blocks = WHOLE.rstrip(b"\0")
    end_of_content = -(-len(blocks) // 512) * 512
    if length >= end_of_content + 512:  # the end-of-archive marker is there
        assert len(read(tmp_path, WHOLE[:length])) == 3
        return
    with pytest.raises(ShardError) as caught:
        read(tmp_path, WHOLE[:length])
    assert caught.value.code == ShardErrorCode.TAR_TRUNCATED
    assert "0.tar" in str(caught.value)


@pytest.mark.parametrize(
    "data", [gzip.compress(WHOLE), b"<html>404</html>" * 99, WHOLE[:1536] + b"!" * 4096]
)
def test_what_is_no_tar_is_a_shard_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ShardError) as caught:
        read(tmp_path, data)
    assert caught.value.code == ShardErrorCode.TAR_TRUNCATED


def test_repeated_and_interleaved_keys_are_row_errors(tmp_path: Path) -> None:
    names = ["a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg", "a.txt", "c.jpg", "c.txt", "c.txt"]
    assert codes(read(tmp_path, tar_of([(name, b"x") for name in names]))) == [
        ("a", None),
        ("b", None),
        ("a", RowErrorCode.DUPLICATE_KEY),
        ("c", None),
        ("c", RowErrorCode.DUPLICATE_KEY),
    ]


def test_a_tar_that_is_not_grouped_by_key_is_a_shard_error(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "a.txt", "b.txt"]
    with pytest.raises(ShardError) as caught:
        read(tmp_path, tar_of([(name, b"x") for name in names]))
    assert caught.value.code == ShardErrorCode.TAR_UNORDERED


def test_odd_keys_are_only_names(tmp_path: Path) -> None:
    keys = ["../../etc/x", "/abs/y", "with space", "sub.folder/z", "é🙂", "long/" * 60 + "n"]
    members: list[Member | tarfile.TarInfo] = [
        (f"{key}.{suffix}", b"x") for key in keys for suffix in ("jpg", "txt")
    ]
    assert codes(read(tmp_path, tar_of(members))) == [(key, None) for key in keys]
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"]


def test_a_key_ends_at_its_first_dot_and_is_never_dropped(tmp_path: Path) -> None:
    names = ["a.jpg", "a.seg.png", "a.txt", "b.c.jpg", "b.c.txt", "README.md"]
    assert codes(read(tmp_path, tar_of([(name, b"x") for name in names]))) == [
        ("a", None),
        ("b", RowErrorCode.IMAGE_MISSING),
    ]


def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path: Path) -> None:
    data = tar_of([("k\udcff.jpg", b"x"), ("k\udcff.txt", b"x")], format=tarfile.GNU_FORMAT)
    assert codes(read(tmp_path, data)) == [("k\\xff", None)]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_only_regular_files_are_read(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("a.jpg")
    link.type = kind
    link.linkname = "/etc/passwd"
    assert codes(read(tmp_path, tar_of([link, ("a.txt", b"x")]))) == [
        ("a", RowErrorCode.IMAGE_MISSING)
    ]


def test_caps(tmp_path: Path) -> None:
    limits = Limits(member_bytes=1000, text_bytes=1000, members=4)
    data = tar_of(
        [("a.jpg", bytes(1001)), ("a.txt", b"x"), ("b.jpg", b"x"), ("b.txt", b"x" * 2000)]
    )
    assert codes(read(tmp_path, data, limits)) == [
        ("a", RowErrorCode.IMAGE_TOO_LARGE),
        ("b", RowErrorCode.TEXT_MISSING),
    ]
    with pytest.raises(ShardError, match="more than 3 members"):
        read(tmp_path, data, Limits(members=3))


def test_an_extended_header_can_not_fill_the_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 1 << 40
    with pytest.raises(ShardError, match="extended header of 1099511627776 bytes"):
        read(tmp_path, header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


@pytest.mark.parametrize(
    ("metadata", "caption", "error"),
    [
        (b'{"caption": "from json"}', "from json", None),
        (b'{"other": 1}', None, RowErrorCode.TEXT_MISSING),
        (b'{"caption": 3}', None, RowErrorCode.TEXT_MISSING),
        (b"[1]", None, RowErrorCode.TEXT_MISSING),
        (b"{", None, RowErrorCode.TEXT_MISSING),
        (b'{"caption": "\xff"}', None, RowErrorCode.TEXT_NOT_UTF8),
    ],
)
def test_captions_from_a_field(
    tmp_path: Path, metadata: bytes, caption: str | None, error: RowErrorCode | None
) -> None:
    data = tar_of([("a.jpg", b"x"), ("a.txt", b"from txt"), ("a.json", metadata)])
    pair = read(tmp_path, data, caption_field="caption")[0]
    assert (pair.caption, pair.error) == (caption, error)


def test_storage_that_fails_is_a_shard_error(tmp_path: Path) -> None:
    stream = reader(tmp_path, WHOLE)
    (tmp_path / "0.tar").unlink()
    with pytest.raises(ShardError) as caught:
        list(stream)
    assert caught.value.code == ShardErrorCode.IO_ERROR
