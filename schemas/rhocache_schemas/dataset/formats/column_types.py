"""Which types the columns of a Parquet file may have."""

from collections.abc import Callable

import pyarrow as pa

from rhocache_schemas.dataset.formats.columns import Columns
from rhocache_schemas.errors import DatasetError

_LENGTH = 200  # of a type's name that is told


def check_types(schema: pa.Schema, columns: Columns, source: str) -> None:
    """Raises DatasetError for a column from which no image, caption, key or shard can be taken."""
    wanted: list[tuple[str | None, Callable[[pa.DataType], bool], str]] = [
        (columns.image, _is_image, "images are bytes: binary, or a struct with a field bytes"),
        (columns.caption, _is_caption, "captions are strings, or lists of them"),
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
