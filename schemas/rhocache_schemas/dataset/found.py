"""Which of a key's files are its image and caption, and what an error tells of others."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from rhocache_schemas.dataset.pair import choose_captions, read_fields
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import InvalidInput

# The suffixes of a pair's files.
IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")  # where a key has several, open_clip's order
CAPTION_SUFFIX = "txt"
METADATA_SUFFIX = "json"

_NAMES = 5  # that are told
_KINDS = 20  # suffixes, or fields, that are told apart
_LENGTH = 60  # of a name
_METADATA = 100  # files that are looked into


def split_name(name: str) -> tuple[str, str]:
    """Return a member's key and suffix in lower case: ``a/b.seg.PNG`` is ``a/b``, ``seg.png``."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


@dataclass(frozen=True, slots=True)
class Suffixes:
    """Those of a pair's image and captions: of several images that a key has, the first counts.

    With a ``caption_field`` captions are this field of JSON files, but for those that are .txt.
    KEY.json is read in any case, for what else it tells.
    """

    images: tuple[str, ...] = IMAGE_SUFFIXES
    captions: tuple[str, ...] = (CAPTION_SUFFIX,)
    caption_field: str | None = None
    most: int = 1  # captions of a pair

    @classmethod
    def usual(cls, caption_field: str | None) -> Self:
        captions = (CAPTION_SUFFIX if caption_field is None else METADATA_SUFFIX,)
        return cls(captions=captions, caption_field=caption_field)

    @classmethod
    def of(cls, source: Source) -> Self:
        """Raises InvalidInput for what names no suffix."""
        asked: dict[str, tuple[str, ...]] = {}
        if source.image_suffix is not None:
            asked["images"] = _split("image_suffix", source.image_suffix)
        if source.caption_suffix is not None:
            asked["captions"] = _split("caption_suffix", source.caption_suffix)
        return replace(cls.usual(source.caption_field), most=source.most_captions, **asked)

    def read_captions(self, files: Iterable[tuple[str, bytes | None]]) -> list[str]:
        """Return the captions that files of these suffixes hold, None for one that is not read.

        Raises UnicodeError for one that is not, or has no, UTF-8.
        """
        stored = (self._stored(suffix, data) for suffix, data in files if data is not None)
        captions = choose_captions(stored, self.most)
        for caption in captions:
            caption.encode()  # a lone surrogate, which JSON can spell, has no UTF-8
        return captions

    def _stored(self, suffix: str, data: bytes) -> object:
        if self.caption_field is None or suffix.rpartition(".")[2] == CAPTION_SUFFIX:
            return data.decode()
        return read_fields(data).get(self.caption_field)

    @property
    def all(self) -> frozenset[str]:
        return frozenset((*self.images, *self.captions, METADATA_SUFFIX))

    @property
    def lasts(self) -> frozenset[str]:
        """The last parts of them, by which a name with more dots is still seen to be a pair's."""
        return frozenset(suffix.rpartition(".")[2] for suffix in self.all)


def _split(what: str, suffixes: str) -> tuple[str, ...]:
    """Take suffixes apart, which webdataset has between semicolons."""
    found = tuple(filter(None, (each.strip().strip(".").lower() for each in suffixes.split(";"))))
    if not found or any("/" in each for each in found):
        raise InvalidInput(
            f"{what}={suffixes!r} is no suffix; write one as input.jpg, or several as jpg;png"
        )
    return found


class Found:
    """The first files' names, how many have each suffix, and the fields of their KEY.json."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._suffixes: Counter[str] = Counter()
        self._fields: dict[str, str] = {}  # by name: the type in Python's words
        self._metadata = 0

    def add(self, name: str, suffix: str) -> None:
        if len(self._names) < _NAMES:
            self._names.append(_shown(name))
        suffix = _shown(suffix) or "none"
        if suffix in self._suffixes or len(self._suffixes) < _KINDS:
            self._suffixes[suffix] += 1

    def add_metadata(self, metadata: bytes | None) -> None:
        if metadata is None or self._metadata == _METADATA:
            return
        self._metadata += 1
        try:
            fields = read_fields(metadata)
        except UnicodeDecodeError:
            return
        for name, value in fields.items():
            if len(self._fields) < _KINDS:
                self._fields.setdefault(_shown(name), type(value).__name__)

    def __bool__(self) -> bool:
        return bool(self._names)

    def describe(self, suffixes: Suffixes) -> str:
        """Tell what was found, and what would have been right."""
        if not self:
            return "no file"
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in self._suffixes.most_common())
        told = f"{', '.join(self._names)}, ... (suffixes: {kinds}"
        if self._fields:
            fields = ", ".join(f"{name} ({kind})" for name, kind in self._fields.items())
            told += f"; fields of its KEY.{METADATA_SUFFIX}: {fields}"
        images, caption = f"KEY.{'|'.join(suffixes.images)}", f"KEY.{'|'.join(suffixes.captions)}"
        if suffixes.caption_field is not None:
            caption = f"the field {suffixes.caption_field} of {caption}, a string or a list of them"
        elif suffixes.captions == (CAPTION_SUFFIX,):
            caption += f", or in a field of KEY.{METADATA_SUFFIX} named as caption field"
        return f"{told}); a pair is {images} with its caption in {caption}"


def found_in(names: Iterable[str]) -> Found:
    """Tell of files by their paths."""
    found = Found()
    for name in names:
        found.add(name, split_name(name)[1])
    return found


def _shown(name: str) -> str:
    """A name as an error may show it: in one line, and not of any length."""
    return repr(name[:_LENGTH])[1:-1] + ("..." if len(name) > _LENGTH else "")
