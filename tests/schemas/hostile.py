"""A corpus of hostile and damaged shards, each with exactly what it must yield.

Everything is built here, byte by byte where no library would write it, so that nothing binary is
committed and every case can be read.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image

END = bytes(2 * tarfile.BLOCKSIZE)  # the end-of-archive marker
NOISE = random.Random(0).randbytes(4096)


@dataclass(frozen=True)
class Case:
    """Members that lie between two good pairs, or with ``whole`` all the bytes of a shard.

    ``outcome`` is the status of each row that ``data`` yields, in order, or the shard's error code.
    """

    name: str
    about: str
    data: bytes
    outcome: Sequence[str] | str
    caption_field: str | None = None
    whole: bool = False

    @property
    def shard(self) -> bytes:
        return self.data if self.whole else good("before") + self.data + good("after") + END

    @property
    def expected(self) -> Sequence[str] | str:
        """What the whole shard yields."""
        return self.outcome if self.whole else ["ok", *self.outcome, "ok"]


@cache
def corpus() -> list[Case]:
    return [*images(), *captions(), *fields(), *keys(), *kinds(), *groups(), *shards()]


def table() -> str:
    """The corpus as docs/hostile-corpus.md shows it."""
    lines = ["| case | what it is | yields |", "|---|---|---|"]
    for case in corpus():
        rows = case.outcome if isinstance(case.outcome, str) else ", ".join(case.outcome)
        lines.append(f"| {case.name} | {case.about} | {rows or 'no row'} |")
    return "\n".join(lines) + "\n"


# --- Members ----------------------------------------------------------------------------------


def member(
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    size: int | None = None,
    link: str = "",
    pax: dict[str, str] | None = None,
    layout: int = tarfile.GNU_FORMAT,
) -> bytes:
    """A header and its data. ``size`` is what the header claims, where that is not the truth."""
    info = tarfile.TarInfo(name)
    info.size = len(data) if size is None else size
    info.type, info.linkname, info.pax_headers = kind, link, pax or {}
    if pax:
        layout = tarfile.PAX_FORMAT
    return info.tobuf(layout, "utf-8", "surrogateescape") + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def pair(key: str, image: bytes | None = None, caption: bytes = b"a caption") -> bytes:
    return member(f"{key}.png", image or png()) + member(f"{key}.txt", caption)


def good(key: str) -> bytes:
    """A pair that can be used wherever the captions come from."""
    return pair(key) + member(f"{key}.json", b'{"caption": "a caption"}')


def resummed(header: bytes) -> bytes:
    """A changed header block with the checksum that it needs."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:] + header[512:]


# --- Images -----------------------------------------------------------------------------------


def picture(mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Image.Image:
    grey = Image.frombytes("L", size, random.Random(1).randbytes(size[0] * size[1]))
    return grey.convert(mode)


def stored(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(
    width: int = 8,
    height: int = 8,
    *,
    extra: bytes = b"",
    pixels: bytes | None = None,
    header_crc: int | None = None,
    end: bytes | None = None,
) -> bytes:
    """A grey PNG of 8 bits; ``extra`` chunks come before the pixels."""
    if pixels is None:
        pixels = bytes((width + 1) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header, header_crc)
        + extra
        + chunk(b"IDAT", zlib.compress(pixels))
        + (chunk(b"IEND", b"") if end is None else end)
    )


def bomb_jpeg() -> bytes:
    """A JPEG whose frame header claims 65,500 x 65,500 pixels."""
    data = bytearray(stored(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def bomb_webp() -> bytes:
    """A lossless WebP whose header claims 16,384 x 16,384 pixels."""
    payload = b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + NOISE[:59]
    chunks = b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]


def animated(kind: str) -> bytes:
    first, *rest = frames()
    return stored(first, kind, save_all=True, append_images=rest)


def jpeg(**options) -> bytes:
    return stored(picture(), "JPEG", **options)


def deep_grey() -> bytes:
    return stored(Image.frombytes("I;16", (16, 16), NOISE[:512]), "PNG")


def deep_colour() -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + NOISE[48 * y : 48 * y + 48] for y in range(8)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def palette_alpha() -> bytes:
    return stored(picture("P"), "PNG", transparency=bytes(range(256)))


def eps() -> bytes:
    return stored(picture(), "EPS")


def images() -> list[Case]:
    ok, bad, large, small = "ok", "image_undecodable", "image_too_large", "image_too_small"
    webp = stored(picture(), "WEBP")
    rotation = Image.Exif()
    rotation[0x0112] = 6  # orientation: rotate by 90 degrees
    bomb = zlib.compress(bytes(50_000_000))
    rows: list[tuple[str, str, str, bytes, str]] = [
        ("empty", "an image of 0 bytes", "jpg", b"", bad),
        ("cut-jpeg", "half of a JPEG", "jpg", jpeg()[: len(jpeg()) // 2], bad),
        ("cut-png", "half of a PNG", "png", palette_alpha()[:900], bad),
        ("cut-webp", "half of a WebP", "webp", webp[: len(webp) // 2], bad),
        ("cut-header", "the first 20 bytes of a JPEG", "jpg", jpeg()[:20], bad),
        ("html", "a web page saved as .jpg", "jpg", b"<!doctype html><p>404", bad),
        ("svg", "an SVG saved as .png", "png", b"<svg xmlns='x' width='9'/>", bad),
        ("zeros", "4,096 zero bytes", "jpg", bytes(4096), bad),
        ("noise", "random bytes behind a JPEG's first four", "jpg", jpeg()[:4] + NOISE, bad),
        ("bmp", "a BMP named .jpg", "jpg", stored(picture(), "BMP"), bad),
        ("tiff", "a TIFF named .jpg", "jpg", stored(picture(), "TIFF"), bad),
        ("eps", "a PostScript program named .jpg", "jpg", eps(), bad),
        ("gif", "an animated GIF named .png", "png", animated("GIF"), bad),
        ("png-as-jpg", "a PNG named .jpg", "jpg", png(), ok),
        ("webp-as-png", "a WebP named .png", "png", webp, ok),
        ("one-pixel", "1 x 1", "png", png(1, 1), ok),
        ("thin", "1 x 20,000", "png", png(1, 20_000), small),
        ("flat", "20,000 x 1", "png", png(20_000, 1), small),
        ("no-width", "a PNG that is 0 pixels wide", "png", png(0, 8), bad),
        ("cmyk", "a CMYK JPEG", "jpg", stored(picture("CMYK"), "JPEG"), ok),
        ("deep-grey", "16-bit grey", "png", deep_grey(), ok),
        ("deep-colour", "16-bit colour", "png", deep_colour(), ok),
        ("palette-alpha", "a palette with alpha", "png", palette_alpha(), ok),
        ("bilevel", "1 bit a pixel", "png", stored(picture("1"), "PNG"), ok),
        ("grey-alpha", "grey with alpha", "png", stored(picture("LA"), "PNG"), ok),
        ("apng", "an animated PNG: its first frame", "png", animated("PNG"), ok),
        ("animated-webp", "an animated WebP: its first frame", "webp", animated("WEBP"), ok),
        ("progressive", "a progressive JPEG", "jpg", jpeg(progressive=True), ok),
        ("exif-rotated", "turned by EXIF: as stored", "jpg", jpeg(exif=rotation), ok),
        ("bad-exif", "EXIF of noise", "jpg", jpeg(exif=b"Exif\0\0II*\0" + NOISE[:99]), ok),
        ("bad-icc", "a colour profile of noise", "jpg", jpeg(icc_profile=NOISE), ok),
        ("bad-icc-png", "a colour profile that does not unpack", "png",
         png(extra=chunk(b"iCCP", b"icc\0\0" + NOISE[:99])), ok),
        ("trailing", "4,096 random bytes after the end of a JPEG", "jpg", jpeg() + NOISE, ok),
        ("no-end", "a PNG without its end chunk", "png", png(end=b""), ok),
        ("bad-crc", "a PNG whose header has a bad checksum", "png", png(header_crc=1), bad),
        ("bomb-png", "100 bytes that claim 30,000 x 30,000 pixels", "png",
         png(30_000, 30_000, pixels=b""), large),
        ("bomb-over-cap", "just over the cap on pixels", "png",
         png(10_001, 10_000, pixels=b""), large),
        ("bomb-jpeg", "a JPEG that claims 65,500 x 65,500 pixels", "jpg", bomb_jpeg(), large),
        ("bomb-webp", "a WebP that claims 16,384 x 16,384 pixels", "webp", bomb_webp(), large),
        ("bomb-rows", "8 x 8 pixels that unpack to 50 MB", "png",
         png(pixels=bytes(50_000_000)), ok),
        ("bomb-text", "a text chunk that unpacks to 50 MB", "png",
         png(extra=chunk(b"zTXt", b"a\0\0" + bomb)), bad),
        ("bomb-icc", "a colour profile that unpacks to 50 MB", "png",
         png(extra=chunk(b"iCCP", b"icc\0\0" + bomb)), bad),
    ]  # fmt: skip
    return [
        Case(
            f"image-{name}",
            about,
            member(f"image-{name}.{suffix}", data) + member(f"image-{name}.txt", b"a caption"),
            [status],
        )
        for name, about, suffix, data, status in rows
    ]


# --- Captions ---------------------------------------------------------------------------------


def captions() -> list[Case]:
    ok, missing, not_utf8 = "ok", "text_missing", "text_not_utf8"
    rows: list[tuple[str, str, bytes, str]] = [
        ("empty", "0 bytes", b"", missing),
        ("blank", "spaces, tabs and newlines", b" \t\r\n ", missing),
        ("blank-unicode", "ideographic and no-break spaces", "\u3000\u00a0".encode(), missing),
        ("latin-1", "Latin-1", "Übergröße".encode("latin-1"), not_utf8),
        ("utf-16", "UTF-16 with a byte-order mark", "a cat".encode("utf-16"), not_utf8),
        ("cut-utf-8", "UTF-8 cut inside a character", "a cat 🐈".encode()[:-1], not_utf8),
        ("overlong", "a slash in two bytes", b"a \xc0\xaf b", not_utf8),
        ("surrogate", "a surrogate in three bytes", b"a \xed\xa0\x80 b", not_utf8),
        ("bom", "UTF-8 with a byte-order mark", "\ufeffa cat".encode(), ok),
        ("1-mb", "1 MB of words", b"a cat on a mat " * 66_667, ok),
        ("1-mb-word", "1 MB of one letter", b"a" * 1_000_000, ok),
        ("5-mb", "over the cap on text", b"a cat on a mat " * 333_334, missing),
        ("nul", "NUL bytes between words", b"a\0cat\0", ok),
        ("only-nul", "nothing but NUL bytes", bytes(100), ok),
        ("control", "terminal escapes and a bell", b"\x1b[2Ja cat\x07\x7f", ok),
        ("emoji", "emoji joined to families and flags", "👩‍👩‍👧 🇪🇺 🏳️‍🌈".encode(), ok),
        ("right-to-left", "Arabic and Hebrew", "قطة على سجادة חתול".encode(), ok),
        ("bidi", "overrides of the writing direction", "\u202ea cat\u202c\u2066".encode(), ok),
        ("combining", "200 accents on a letter", ("e" + "\u0301" * 200).encode(), ok),
        ("markup", "HTML entities, twice over", b"&amp;lt;script&amp;gt; a cat", ok),
        ("special", "the tokenizer's own end-of-text", b"a <end_of_text> cat <|endoftext|>", ok),
    ]
    return [
        Case(f"caption-{name}", about, pair(f"caption-{name}", caption=data), [status])
        for name, about, data, status in rows
    ]


def fields() -> list[Case]:
    """Captions from a field of the json."""
    ok, missing, not_utf8 = "ok", "text_missing", "text_not_utf8"
    rows: list[tuple[str, str, bytes, str]] = [
        ("good", "a string, with the .txt left unread", b'{"caption": "a cat"}', ok),
        ("emoji", "a pair of surrogate escapes", rb'{"caption": "\ud83d\ude42"}', ok),
        ("nul", "an escaped NUL", rb'{"caption": "a\u0000cat"}', ok),
        ("bom", "JSON with a byte-order mark", b'\xef\xbb\xbf{"caption": "a cat"}', ok),
        ("twice", "the field twice: the last", b'{"caption": 1, "caption": "a cat"}', ok),
        ("invalid", "cut JSON", b'{"caption": "a c', missing),
        ("empty", "0 bytes of JSON", b"", missing),
        ("absent", "another field alone", b'{"alt": "a cat"}', missing),
        ("number", "a number", b'{"caption": 3}', missing),
        ("null", "null", b'{"caption": null}', missing),
        ("list", "a list of strings: the first", b'{"caption": ["a cat", "a dog"]}', ok),
        ("list-gaps", "a list: the first that is not blank",
         b'{"caption": [null, " ", 3, "a cat"]}', ok),
        ("list-empty", "an empty list", b'{"caption": []}', missing),
        ("list-blank", "a list of nothing but blanks", b'{"caption": ["", " "]}', missing),
        ("list-numbers", "a list of numbers", b'{"caption": [1, 2]}', missing),
        ("list-lists", "a list of lists", b'{"caption": [["a cat"]]}', missing),
        ("list-surrogate", "a list whose first has no UTF-8",
         rb'{"caption": ["a \ud800", "a cat"]}', not_utf8),
        ("object", "an object", b'{"caption": {"en": "a cat"}}', missing),
        ("array", "JSON that is no object", b'["caption"]', missing),
        ("blank", "white space", rb'{"caption": "\n\u00a0"}', missing),
        ("digits", "a number of 5,000 digits", b'{"caption": ' + b"9" * 5000 + b"}", missing),
        ("deep", "100,000 nested arrays", b'{"caption": ' + b"[" * 100_000, missing),
        ("large", "over the cap on JSON", json.dumps({"caption": "a " * 2_500_000}).encode(),
         missing),
        ("many", "a caption beside 1.3 million empty objects",
         b'{"caption": "a cat", "x": [' + b"{}," * 1_300_000 + b"0]}", ok),
        ("surrogate", "a lone surrogate", rb'{"caption": "a \ud800"}', not_utf8),
        ("latin-1", "JSON in Latin-1", b'{"caption": "\xdcber"}', not_utf8),
    ]  # fmt: skip
    return [
        Case(
            f"field-{name}",
            about,
            pair(f"field-{name}", caption=b"unread") + member(f"field-{name}.json", data),
            [status],
            caption_field="caption",
        )
        for name, about, data, status in rows
    ]


# --- Names, kinds and order of members --------------------------------------------------------


def keys() -> list[Case]:
    rows: list[tuple[str, str, str, Sequence[str]]] = [
        ("dots", "a key with dots: it ends at the first", "key.with.dots", ["image_missing"]),
        ("slashes", "a key in folders, one of them with a dot", "a/b.c/key", ["ok"]),
        ("parents", "a key that climbs out of the folder", "../../../../tmp/hostile", ["ok"]),
        ("absolute", "a key that is an absolute path", "/tmp/hostile", ["ok"]),
        ("home", "a key that begins with a tilde", "~root/hostile", ["ok"]),
        ("backslash", "a Windows path", r"C:\hostile", ["ok"]),
        ("scheme", "a key like a command of a shell", "pipe:touch hostile", ["ok"]),
        ("newline", "a key with a newline and an escape", "new\nline\x1b[2J", ["ok"]),
        ("spaces", "a key of spaces", "   ", ["ok"]),
        ("unicode", "emoji and right-to-left text", "🙂 قطة", ["ok"]),
        ("not-utf8", "bytes that are no UTF-8: spelled out", "k\udcff", ["ok"]),
        ("long", "3,000 characters, by GNU's header", "long/" * 600 + "key", ["ok"]),
        ("longer", "60,000 characters", "long/" * 12_000 + "key", ["ok"]),
        ("hidden", "hidden files, such as macOS's ._name: no pair", "folder/._hidden", []),
        ("hidden-folder", "files in a hidden folder: no pair", ".Trash-1000/files/key", []),
        ("leftover", "files of a Mac's archive: no pair", "__MACOSX/key", []),
        ("dot-folder", "a key that begins with ./, as tar writes it", "./folder/key", ["ok"]),
        ("nameless", "nothing but a suffix: no pair", "", []),
    ]
    twins = pair("twin-é") + pair("twin-e\u0301") + pair("TWIN-É")
    with_nul = member("x", png(), pax={"path": "key\0nul.png"}) + member(
        "x", b"a caption", pax={"path": "key\0nul.txt"}
    )
    upper = member("key-upper.PNG", png()) + member("key-upper.TXT", b"a caption")
    return [
        *(Case(f"key-{name}", about, pair(key), outcome) for name, about, key, outcome in rows),
        Case("key-twins", "keys that differ in Unicode form or case: all count", twins, ["ok"] * 3),
        Case("key-nul", "a NUL byte in a key, by PAX", with_nul, ["ok"]),
        Case("key-upper", "suffixes in upper case", upper, ["ok"]),
    ]


def sparse(name: str, *, extended: bool = False) -> bytes:
    """The header of an old GNU sparse file: 1 TB with 512 bytes of data."""
    header = bytearray(member(name, kind=tarfile.GNUTYPE_SPARSE, size=512))
    header[386:410] = b"00000000000\0" + b"00000001000\0"  # where the 512 bytes lie in it
    header[482] = extended  # whether a block with more of the map follows
    header[483:495] = (1 << 95 | 1 << 40).to_bytes(12, "big")
    return resummed(bytes(header))


def pax_sparse(name: str, sparse_map: bytes) -> bytes:
    """A sparse file of 1 TB in the PAX format 1.0, where the map is the head of the data."""
    pax = {"major": "1", "minor": "0", "name": name, "realsize": str(1 << 40)}
    return member(
        "GNUSparseFile.0/x", padded(sparse_map), pax={f"GNU.sparse.{k}": v for k, v in pax.items()}
    )


def kinds() -> list[Case]:
    """An image's name on something else than a plain file, with its caption beside it."""
    missing, ok = "image_missing", "ok"

    def special(name: str, kind: bytes, link: str = "") -> bytes:
        return member(f"kind-{name}.png", kind=kind, link=link)

    def named(name: str, **pax: str) -> bytes:
        return member("x", png(), pax={"path": f"kind-{name}.png", **pax})

    rows: list[tuple[str, str, bytes, str]] = [
        ("symlink", "a symbolic link to a secret",
         special("symlink", tarfile.SYMTYPE, "/etc/passwd"), missing),
        ("symlink-self", "a symbolic link to itself",
         special("symlink-self", tarfile.SYMTYPE, "kind-symlink-self.png"), missing),
        ("hardlink", "a hard link to a secret",
         special("hardlink", tarfile.LNKTYPE, "/etc/passwd"), missing),
        ("hardlink-pair", "a hard link to another pair's image",
         special("hardlink-pair", tarfile.LNKTYPE, "before.png"), missing),
        ("character", "a character device", special("character", tarfile.CHRTYPE), missing),
        ("block", "a block device", special("block", tarfile.BLKTYPE), missing),
        ("fifo", "a named pipe", special("fifo", tarfile.FIFOTYPE), missing),
        ("directory", "a directory", special("directory", tarfile.DIRTYPE), missing),
        ("unknown", "a type that nobody knows, with data",
         member("kind-unknown.png", png(), kind=b"Z"), missing),
        ("sparse", "a GNU sparse file of 1 TB",
         sparse("kind-sparse.png") + bytes(512), missing),
        ("sparse-map", "the same, with a second block of its map",
         sparse("kind-sparse-map.png", extended=True) + bytes(512) * 2, missing),
        ("sparse-pax", "a PAX sparse file of 1 TB",
         pax_sparse("kind-sparse-pax.png", b"1\n0\n512\n") , missing),
        ("old", "the type of regular files before POSIX",
         member("kind-old.png", png(), kind=tarfile.AREGTYPE), ok),
        ("contiguous", "a contiguous file: a regular one",
         member("kind-contiguous.png", png(), kind=tarfile.CONTTYPE), ok),
        ("path", "a PAX header that gives another name", named("path"), ok),
        ("size", "a PAX header that gives the size, where the header has 0",
         member("kind-size.png", size=0, pax={"size": str(len(png()))}) + padded(png()), ok),
        ("attributes", "PAX attributes of 60 kB",
         named("attributes", **{"SCHILY.xattr.user.x": "x" * 60_000}), ok),
        ("link-path", "a PAX header that makes a regular file's link target",
         named("link-path", linkpath="/etc/passwd"), ok),
        ("comment", "a global PAX header, as git archive writes",
         member("pax_global_header", b"16 comment=0123\n", kind=tarfile.XGLTYPE)
         + member("kind-comment.png", png()), ok),
        ("short", "a header that claims 20 bytes of the image",
         member("kind-short.png", png(), size=20), "image_undecodable"),
    ]  # fmt: skip
    followed = member("kind-through", kind=tarfile.SYMTYPE, link="/tmp") + pair("kind-through/key")
    caption = member("kind-caption.png", png()) + member(
        "kind-caption.txt", kind=tarfile.SYMTYPE, link="/etc/passwd"
    )
    return [
        *(
            Case(f"kind-{name}", about, data + member(f"kind-{name}.txt", b"a caption"), [status])
            for name, about, data, status in rows
        ),
        Case("kind-through", "a pair behind a symbolic link to a folder", followed, ["ok"]),
        Case("kind-caption", "a caption that is a symbolic link", caption, ["text_missing"]),
    ]


def groups() -> list[Case]:
    ok, repeat, textless, imageless = "ok", "duplicate_key", "text_missing", "image_missing"
    image, text = "x.png", "x.txt"
    rows: list[tuple[str, str, list[str], list[str]]] = [
        ("repeated", "a key twice in a row", [image, text, image, text], [ok, repeat]),
        ("repeated-later", "a key again after another",
         [image, text, "y.png", "y.txt", image, text], [ok, ok, repeat]),
        ("interleaved", "two keys by turns", [image, "y.png", text, "y.txt"],
         [textless, textless, repeat, repeat]),
        ("two-images", "the same image name twice", [image, image, text], [textless, repeat]),
        ("two-captions", "the same caption name twice", [image, text, text], [ok, repeat]),
        ("between", "files of no pair between its halves", [image, "LICENSE", "x.cls", text], [ok]),
        ("masks", "images under other suffixes, twice: no part of the pair",
         [image, "x.seg.png", "x.seg.png", text], [ok]),
        ("split", "another key's half between its halves", [image, "y.txt", text],
         [textless, imageless, repeat]),
        ("caption-first", "the caption before the image", [text, image], [ok]),
        ("no-image", "a caption alone", [text], [imageless]),
        ("no-caption", "an image alone", [image], [textless]),
        ("json-alone", "a json alone", ["x.json"], [imageless]),
        ("folders", "one base name in two folders",
         ["x/z.png", "x/z.txt", "y/z.png", "y/z.txt"], [ok, ok]),
        ("others", "nothing of a pair", ["README.md", "x.cls", "x.npy", "x.mp4"], []),
    ]  # fmt: skip
    formats = member("x.png", b"broken") + member("x.jpg", jpeg()) + member("x.txt", b"a caption")
    return [
        *(
            Case(f"group-{name}", about, b"".join(member(n, content(n)) for n in names), outcome)
            for name, about, names, outcome in rows
        ),
        Case("group-formats", "a good .jpg beside a broken .png: the .jpg", formats, [ok]),
    ]


def content(name: str) -> bytes:
    return png() if name.endswith("png") else b"a caption"


# --- Whole shards -----------------------------------------------------------------------------


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png())
        archive.writestr("a.txt", "a caption")
    return buffer.getvalue()


def shards() -> list[Case]:
    """What a shard is as a whole. None of its rows counts where the outcome is an error."""
    bad = "tar_truncated"
    one, two = pair("a"), pair("b", jpeg())
    tar = one + two + END
    image = member("b.png", NOISE)
    checksum = bytearray(two)
    checksum[150] ^= 1
    apart = [member(f"{k}.{s}", content(s)) for s in ("png", "txt") for k in "abc"]
    rows: list[tuple[str, str, bytes, Sequence[str] | str]] = [
        ("no-bytes", "0 bytes", b"", bad),
        ("no-members", "an end marker alone", END, []),
        ("one-block", "an end marker of one block", one + END[:512], ["ok"]),
        ("zeros", "1 MB of zeros after the end marker", tar + bytes(1 << 20), ["ok", "ok"]),
        ("cut-header", "cut inside a header", one + two[:200], bad),
        ("cut-data", "cut inside an image", one + image[:2048], bad),
        ("cut-padding", "cut after a caption, before its padding", (one + two)[:-500], bad),
        ("cut-half", "cut between the halves of a pair", one + image, bad),
        ("cut-end", "whole pairs without an end marker", one + two, bad),
        ("gzip", "a gzip of a tar", gzip.compress(tar), bad),
        ("bzip2", "a bzip2 of a tar", bz2.compress(tar), bad),
        ("xz", "an xz of a tar", lzma.compress(tar), bad),
        ("zip", "a zip", zipped(), bad),
        ("html", "a web page", b"<!doctype html><title>404</title>" * 99, bad),
        ("xml", "an object store's error", b"<Error><Code>NoSuchKey</Code></Error>", bad),
        ("image", "an image", jpeg(), bad),
        ("noise", "random bytes", NOISE, bad),
        ("garbage", "random bytes between two pairs", one + NOISE + two + END, bad),
        ("shifted", "a byte too many between two pairs", one + b"x" + two + END, bad),
        ("checksum", "a header with a wrong checksum", one + checksum + END, bad),
        ("hole", "a block of zeros between two pairs", one + bytes(512) + two + END, bad),
        ("joined", "two tars in one file", tar + tar, bad),
        ("appended", "random bytes after the end marker", tar + NOISE, bad),
        ("appended-late", "random bytes 2 MB after the end marker",
         tar + bytes(2 << 20) + NOISE, bad),
        ("unordered", "all images, then all captions", b"".join(apart) + END, "tar_unordered"),
        ("size-short", "a header that claims 20 bytes of 4,096",
         member("b.png", NOISE, size=20) + END, bad),
        ("size-long", "a header that claims a byte more than there is",
         member("b.png", NOISE, size=4097 + len(END)) + END, bad),
        ("size-huge", "a header that claims 2^80 bytes",
         member("b.png", NOISE, size=1 << 80) + END, bad),
        ("size-other", "a file of no pair that claims 2^80 bytes",
         member("README", NOISE, size=1 << 80) + END, bad),
        ("size-negative", "a header that claims -512 bytes: it would be read for ever",
         one + member("b.png", size=-512) + END, bad),
        ("size-pax", "a PAX header that claims 2^60 bytes",
         member("b.png", NOISE, pax={"size": str(1 << 60)}) + END, bad),
        ("size-pax-negative", "a PAX header that claims -1,024 bytes",
         one + member("b.png", NOISE, pax={"size": "-1024"}) + END, bad),
        ("size-link", "a hard link with data, which links have not",
         one + member("b.png", NOISE, kind=tarfile.LNKTYPE, link="a.png") + two + END, bad),
        *(
            (f"{name}-claims", f"{about} that claims 1 TB",
             member("x", kind=kind, size=1 << 40) + tar, bad)
            for name, about, kind in EXTENDED
        ),
        *(
            (f"{name}-bomb", f"{about} of 200 kB",
             member("x", b"x" * 200_000, kind=kind) + tar, bad)
            for name, about, kind in EXTENDED
        ),
        *(
            (f"{name}-chain", f"{about}, 4,000 times over",
             member("x", b"x", kind=kind) * 4000 + tar, bad)
            for name, about, kind in EXTENDED
        ),
        ("pax-record", "a PAX record of length 0",
         one + member("x", b"0 path=x\n", kind=tarfile.XHDTYPE) + two + END, bad),
        ("sparse-chain", "a GNU sparse map of 2 MB",
         sparse("x.png", extended=True) + (bytes(504) + b"\1" + bytes(7)) * (4 << 10)
         + bytes(1024) + tar, bad),
        ("sparse-parts", "a PAX sparse map of 500,000 parts",
         pax_sparse("x.png", b"500000\n" + b"0\n" * 1_000_000) + tar, bad),
        ("sparse-count", "a PAX sparse map that claims 10^18 parts",
         pax_sparse("x.png", b"1" + b"0" * 18 + b"\n") + tar, bad),
    ]  # fmt: skip
    return [
        Case(f"shard-{name}", about, bytes(data), outcome, whole=True)
        for name, about, data, outcome in rows
    ]


EXTENDED = [
    ("long-name", "a GNU header of a long name", tarfile.GNUTYPE_LONGNAME),
    ("long-link", "a GNU header of a long link", tarfile.GNUTYPE_LONGLINK),
    ("pax", "a PAX header", tarfile.XHDTYPE),
    ("pax-global", "a global PAX header", tarfile.XGLTYPE),
]


if __name__ == "__main__":
    sys.stdout.write(table())
