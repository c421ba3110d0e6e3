"""The numbers of a plain Parquet column, copied from its pages.

pyarrow decodes an embedding as a list, number by number, which takes longer than hashing the file.
Where a column is neither compressed nor encoded, the numbers of each of its pages lie one after
another, behind the levels that tell where lists begin. How a page and its header are laid out:
https://parquet.apache.org/docs/file-format/data-pages/ and Thrift's compact protocol.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

_DATA_PAGE = 0  # of version 1, whose levels are counted in bytes before them
_PLAIN = 0
_UINT32 = np.dtype("<u4")


class OtherLayout(Exception):
    """A column that some Parquet writer has compressed, encoded or paged in another way."""


def plain_values(
    data: bytes, file: pq.FileMetaData, column: int, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """All values of a column of lists, in their order; what is null has none.

    ``data`` is the whole file, ``file`` its metadata, ``column`` the number of the leaf column.
    Raises OtherLayout.
    """
    pages: list[npt.NDArray[Any]] = []
    for group in range(file.num_row_groups):
        chunk = file.row_group(group).column(column)
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
            raise OtherLayout(f"{chunk.path_in_schema} is not plain")
        position = chunk.data_page_offset
        end = position + chunk.total_compressed_size
        while position < end:
            begin, position = _page(data, position)
            for _ in range(2):  # repetition levels, definition levels
                begin += 4 + int(np.frombuffer(data, _UINT32, 1, begin)[0])
            count = (position - begin) // dtype.itemsize
            pages.append(np.frombuffer(data, dtype, count, begin))
    return np.concatenate(pages) if pages else np.empty(0, dtype)


def _page(data: bytes, position: int) -> tuple[int, int]:
    """Where the data of the page at ``position`` begin and end."""
    header, begin = _struct(data, position)
    size, of_data = header.get(3), header.get(5)
    if header.get(1) != _DATA_PAGE or not isinstance(of_data, dict) or of_data.get(2) != _PLAIN:
        raise OtherLayout("a page that is not plain data")
    if not isinstance(size, int) or size < 0:
        raise OtherLayout(f"a page of {size} bytes")
    return begin, begin + size


def _struct(data: bytes, position: int) -> tuple[dict[int, Any], int]:
    """Read a Thrift struct: its fields by their numbers, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[position]:
        position += 1
        step, kind = head >> 4, head & 15
        if not step:
            raise OtherLayout("a page header with far-apart fields")
        number += step
        if kind in (1, 2):  # true and false
            fields[number] = kind == 1
        elif kind in (4, 5, 6):  # integers, zigzag
            value, position = _varint(data, position)
            fields[number] = (value >> 1) ^ -(value & 1)
        elif kind == 8:  # bytes
            size, position = _varint(data, position)
            position += size
        elif kind == 12:
            fields[number], position = _struct(data, position)
        else:
            raise OtherLayout(f"a page header with a field of type {kind}")
    return fields, position + 1


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
