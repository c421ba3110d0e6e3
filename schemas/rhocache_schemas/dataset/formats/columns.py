"""Which columns of a table hold what, and which types they may have."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError, InvalidInput

_LENGTH = 200  # of a type's name that is told


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns. ``shard`` is the dataset shard that a pair once came from.

    Captions are the first ``most`` that are not blank of those in ``captions``, in their order.
    """

    image: str
    captions: tuple[str, ...]
    key: str | None
    shard: str | None
    most: int = 1


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Names that the columns may have. One that somebody ``asked`` for must be there."""

    image: Sequence[str]
    caption: Sequence[str]
    key: Sequence[str]
    shard: Sequence[str]
    asked: frozenset[str] = frozenset()
    most: int = 1  # captions of a pair

    @classmethod
    def of(cls, source: Source, image: Sequence[str], caption: Sequence[str]) -> Self:
        """Return the names that a user has chosen, or else usual ones.

        Raises InvalidInput for settings of files, which no table has.
        """
        for name in ("caption_field", "image_suffix", "caption_suffix"):
            if getattr(source, name) is not None:
                raise InvalidInput(
                    f"{name}={getattr(source, name)} is of tars and folders, and {source.dataset} "
                    "is a table; its columns are image_column and caption_column"
                )
        usual = (image, caption, ("key", "__key__"), ("shard",))
        captions = None if source.caption_column is None else _split(source.caption_column)
        chosen = (
            _one(source.image_column),
            captions,
            _one(source.key_column),
            _one(source.shard_column),
        )
        names = [
            names if asked is None else asked for asked, names in zip(chosen, usual, strict=True)
        ]
        asked = frozenset(name for each in chosen for name in each or ())
        return cls(*names, asked=asked, most=source.most_captions)

    def among(self, there: Sequence[str], source: str) -> Columns:
        """Choose, of those that a table has, the first of each kind. Raises DatasetError."""

        def first(names: Sequence[str]) -> str | None:
            return next((name for name in names if name in there), None)

        image, caption, key, shard = map(first, (self.image, self.caption, self.key, self.shard))
        lacking = self.asked - set(there)
        for found, names in ((image, self.image), (caption, self.caption)):
            if found is None and not lacking.intersection(names):
                lacking |= {" or ".join(names)}
        if lacking or image is None or caption is None:
            raise DatasetError(
                f"{source} has no column {', '.join(sorted(lacking))}; it has {', '.join(there)}"
            )
        captions = tuple(self.caption) if self.asked.issuperset(self.caption) else (caption,)
        chosen = Columns(image, captions, key, shard, self.most)
        names = (image, *captions, key, shard)
        twice = [name for name in names if there.count(name or "") > 1]
        if twice:
            raise DatasetError(f"{source} has column {twice[0]} twice: rename one of them")
        return chosen


def _one(column: str | None) -> tuple[str, ...] | None:
    return None if column is None else (column,)


def _split(columns: str) -> tuple[str, ...]:
    """Take the names of columns apart. Raises InvalidInput for one that comes twice, or none."""
    names = tuple(filter(None, (name.strip() for name in columns.split(";"))))
    if not names or len(set(names)) < len(names):
        raise InvalidInput(
            f"caption_column={columns!r} names no columns, or one twice; write one as caption, or "
            "several as caption;alt"
        )
    return names


def check_types(schema: pa.Schema, columns: Columns, source: str) -> None:
    """Raises DatasetError for a column from which no image, caption, key or shard can be taken."""
    wanted: list[tuple[str | None, Callable[[pa.DataType], bool], str]] = [
        (columns.image, _is_image, "images are bytes: binary, or a struct with a field bytes"),
        *(
            (name, _is_caption, "captions are strings, or lists of them")
            for name in columns.captions
        ),
        (columns.key, _is_name, "keys are strings or integers"),
        (columns.shard, _is_name, "shards are strings or integers"),
    ]
    for name, fits, right in wanted:
        if name is not None and not fits(kind := schema.field(name).type):
            raise DatasetError(f"{source}: column {name} is {str(kind)[:_LENGTH]}; {right}")


def is_text(kind: pa.DataType) -> bool:
    kind = _value(kind)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    kind = _value(kind)
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_image(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.StructType):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_caption(kind: pa.DataType) -> bool:
    if isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        return is_text(kind.value_type)
    return is_text(kind) or _is_bytes(kind)  # some writers don't mark strings as such


def _is_name(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(_value(kind))


def _value(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if isinstance(kind, pa.DictionaryType) else kind
