"""Lists, for error messages, the names that a dataset has where no usable pair is found."""

from collections import Counter
from collections.abc import Iterable

from rhocache_schemas.dataset.pair import read_fields

# The suffixes of a pair's files.
IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")  # where a key has several, open_clip's order
CAPTION_SUFFIX = "txt"
METADATA_SUFFIX = "json"
PAIR_SUFFIXES = frozenset((*IMAGE_SUFFIXES, CAPTION_SUFFIX, METADATA_SUFFIX))

_NAMES = 5  # that are told
_KINDS = 20  # suffixes, or fields, that are told apart
_LENGTH = 60  # of a name
_METADATA = 100  # files that are looked into


def split_name(name: str) -> tuple[str, str]:
    """Return a member's key and suffix in lower case: ``a/b.seg.PNG`` is ``a/b``, ``seg.png``."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


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

    def describe(self, caption_field: str | None) -> str:
        """Tell what was found, and what would have been right."""
        if not self:
            return "no file"
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in self._suffixes.most_common())
        told = f"{', '.join(self._names)}, ... (suffixes: {kinds}"
        if self._fields:
            fields = ", ".join(f"{name} ({kind})" for name, kind in self._fields.items())
            told += f"; fields of its KEY.{METADATA_SUFFIX}: {fields}"
        images = f"KEY.{'|'.join(IMAGE_SUFFIXES)}"
        caption = (
            f"KEY.{CAPTION_SUFFIX}, or in a field of KEY.{METADATA_SUFFIX} named as caption field"
            if caption_field is None
            else f"the field {caption_field} of KEY.{METADATA_SUFFIX}, a string or a list of them"
        )
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
