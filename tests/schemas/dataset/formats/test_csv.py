"""Dialects of CSV: every row is read as Python's csv reader has it, or an error names its line."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from rhocache_schemas.dataset.formats.csv import CsvTable
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError

ROWS = [
    ["filepath", "title"],
    ["a.jpg", "plain"],
    ["b.jpg", 'a "quoted" word, and a comma; a tab\there'],
    ["c.jpg", "two\nlines, of it\r\n# three"],
    ["#d.jpg", 'an inch: 5"'],
    ["e.jpg", "ünï\u2028code \x0b\x1c\x85 | NUL \0 and " + "long " * 20_000],
    ["f.jpg", ""],
    ["g.jpg", "'single', \\ and last"],
]


def written(**dialect) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **dialect).writerows(ROWS)
    return buffer.getvalue()


def table(folder: Path, data: str | bytes) -> CsvTable:
    path = folder / "pairs.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return CsvTable(Source(dataset=str(path), images=str(folder)))


def read(folder: Path, data: str | bytes) -> list[list[str]]:
    found = table(folder, data)
    blocks: Any = [shard.content for shard in found.shards]
    return [
        [image.as_py(), caption.as_py()]
        for block in blocks
        for image, caption in zip(block.images, *block.captions, strict=True)
    ]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_dialects(tmp_path: Path, delimiter: str, end: str, quoting: int):
    text = written(delimiter=delimiter, lineterminator=end, quoting=quoting)
    for data in (text, text.rstrip("\r\n"), text + end * 3):
        assert read(tmp_path, data) == ROWS[1:]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str):
    assert read(tmp_path, written().encode(encoding)) == ROWS[1:]


def test_empty_lines_are_no_rows(tmp_path: Path):
    data = "filepath,title\n\n\na.jpg,one\r\n\r\nb.jpg,two\n\n"
    assert read(tmp_path, data) == [["a.jpg", "one"], ["b.jpg", "two"]]


def test_a_quote_within_a_field_is_one(tmp_path: Path):
    data = 'title,filepath\na 5" disk,a.jpg\nsaid "so" twice,b.jpg\n'
    assert read(tmp_path, data) == [["a.jpg", 'a 5" disk'], ["b.jpg", 'said "so" twice']]


def test_other_columns_and_many_rows(tmp_path: Path):
    """More rows than are held at a time, and delimiters at the ends of lines."""
    n = (1 << 17) + 3
    lines = "".join(f"x,caption {row},{row}.jpg,\n" for row in range(n))
    found = table(tmp_path, "id,title,filepath,\n" + lines)
    assert found.keys().to_pylist() == [str(row) for row in range(n)]
    assert sum(shard.rows or 0 for shard in found.shards) == n


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('filepath,title\na.jpg,"open\nb.jpg,x\n', "line 2: .*unexpected end of data"),
        ('filepath,title\na.jpg,x\nb.jpg,"open\nc.jpg,"x"\n', "line 3: .*expected after"),
        ('filepath\ttitle\na.jpg\t"open\nb.jpg\tclosed"\n', "line 2: .*over the row of b.jpg"),
        ('title,filepath\n"open,a.jpg\nx,b.jpg\nshut","c.jpg"\n', "line 2: .*over the row of b"),
        ('filepath,title\n"a.jpg","a ""b\n"b.jpg","c"" d"\n', "line 2: .*expected after"),
        ('filepath,title\na.jpg,"he said \\"no\\""\n', "line 2: .*expected after"),
        ("filepath,title\na.jpg,x\n\nb.jpg,one, two\n", "line 4: .* 3 fields where .* has 2"),
        ("filepath,title\na.jpg,x\nb.jpg\n", "line 3: .* 1 fields where the header has 2"),
        ("filepath,title\na.jpg,x\n  \n", "line 3: .* 1 fields"),
        (b"filepath,title\na.jpg,x\x0b\nb.jpg,\xfcber\n", "line 3: not UTF-8"),
        (b"\xff\xfe" + "filepath,title\r\n".encode("utf-16-le") + b"x", "line 2: not UTF-16"),
        ("filepath,title\na.jpg,x\n".encode("utf-16-le"), "UTF-16 without its mark"),
        ("filepath,title\na.jpg,x\n".encode("utf-16-be"), "UTF-16 without its mark"),
        ("filepath:title\na.jpg:x\n", "no column filepath, title; it has filepath:title"),
        ("filepath;caption\na.jpg;x\n", "no column title; it has filepath, caption"),
        ("filepath,title,title\na.jpg,x,y\n", "column title twice"),
        ("filepath,title\n", "a header but no row"),
        ("\nfilepath,title\na.jpg,x\n", "no column filepath, title"),
        ("", "no column filepath, title"),
        (f"filepath,title\na.jpg,{'x' * 200_000}\n", "line 2: .*field limit"),
    ],
)
def test_a_line_that_can_not_be_read_is_named(tmp_path: Path, data: str | bytes, message: str):
    with pytest.raises(DatasetError, match=message) as caught:
        table(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert "pairs.csv" in str(caught.value)


def test_a_windows_path_does_not_lead_out(tmp_path: Path):
    with pytest.raises(DatasetError, match="lies outside"):
        table(tmp_path, "filepath,title\n..\\..\\secret.jpg,x\n")


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "s3://bucket/x.jpg"]
)
def test_no_image_outside_the_folder(tmp_path: Path, path: str):
    table = tmp_path / "pairs.csv"
    table.write_text(f"filepath,title\nimages/fine.jpg,fine\n{path},x\n")
    with pytest.raises(DatasetError, match=r"lies outside .*data\.images") as caught:
        CsvTable(Source(dataset=str(table)))
    assert path in str(caught.value)


def test_images_that_are_not_there(tmp_path: Path):
    (tmp_path / "there.jpg").write_bytes(b"x")
    found = table(tmp_path, "filepath,title\nnone.jpg,x\nthere.jpg,\nthere.jpg,y\n")
    pairs = [found.load(pair) for pair in found.read(found.shards[0])]
    assert [pair.error for pair in pairs] == ["image_missing", "text_missing", None]
    assert "has no none.jpg" in pairs[0].detail
    assert pairs[2].content() == (b"x", "y")
