"""How a shard file stores vectors: as lists of numbers, or as int8 codes with a scale a vector."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_LARGEST = 127  # of a code
LISTS: Any = pa.ListArray  # the stubs lack ``mask``


class Codes(NamedTuple):
    """k vectors a row, each of d codes times its scale; scales are NaN where there are none."""

    codes: npt.NDArray[np.int8]  # [n, k, d]
    scales: npt.NDArray[np.float32]  # [n, k]

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return the vectors that the codes stand for, [n, k, d]."""
        return self.codes * self.scales[..., None]


def quantise(vectors: npt.NDArray[np.floating]) -> Codes:
    """Round vectors [n, k, d] to codes from −127 to 127, each with the scale that keeps its length.

    The largest entry of a vector has the largest code. A vector with a NaN has the scale NaN.
    """
    exact = vectors.astype(np.float32)
    largest = np.abs(exact).max(-1, keepdims=True, initial=0)
    finite, there = np.isfinite(largest), largest > 0
    steps = np.divide(_LARGEST, largest, out=np.zeros_like(largest), where=finite & there)
    codes = np.rint(np.where(finite, exact, 0) * steps)
    lengths, coded = (np.linalg.norm(each, axis=-1) for each in (exact, codes))
    scales = np.divide(lengths, coded, out=np.zeros_like(lengths), where=coded > 0)
    scales[~finite[..., 0]] = np.nan
    return Codes(codes.astype(np.int8), scales)


def listed(values: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> Any:
    """A list a row of the numbers of its first ``counts`` of ``values`` [n, k, ...]; 0: null."""
    offsets, numbers = _flat(values, counts)
    return LISTS.from_arrays(pa.array(offsets), pa.array(numbers), mask=pa.array(counts == 0))


def binary(codes: npt.NDArray[np.int8], counts: npt.NDArray[np.int64]) -> Any:
    """The bytes a row of the first ``counts`` of its ``codes`` [n, k, d]; null where it is 0."""
    offsets, numbers = _flat(codes, counts)
    there = pa.array(counts > 0).buffers()[1]
    buffers: Any = [there, pa.py_buffer(offsets.data), pa.py_buffer(numbers.data)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(counts), buffers)


def _flat(
    values: npt.NDArray[Any], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """Where each row begins, and the numbers of all."""
    size = int(np.prod(values.shape[2:]))
    offsets = np.concatenate([[0], np.cumsum(counts * size)]).astype(np.int32)
    own = np.arange(values.shape[1]) < counts[:, None]
    return offsets, np.ascontiguousarray(values[own]).reshape(-1)


def numbers(column: Any, dtype: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The numbers of a column of lists, or of bytes in ``dtype``, and how many each row has.

    Raises ValueError for another column.
    """
    array, kind = column.combine_chunks(), column.type
    if pa.types.is_list(kind):
        lengths = np.diff(array.offsets.to_numpy()) if len(array) else np.empty(0, np.int64)
        values = array.flatten().to_numpy(zero_copy_only=False)
    elif pa.types.is_binary(kind) and len(array):
        ends = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
        lengths = np.diff(ends)
        count = int(ends[-1] - ends[0])
        values = np.frombuffer(array.buffers()[2] or b"", dtype, count, int(ends[0]))
    elif pa.types.is_binary(kind):
        lengths, values = np.empty(0, np.int64), np.empty(0, dtype)
    else:
        raise ValueError(f"a column of {kind} where vectors should be")
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return values, np.where(valid, lengths, 0).astype(np.int64)


def spread(
    values: npt.NDArray[Any], lengths: npt.NDArray[np.int64], shape: tuple[int, ...], empty: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The numbers of each row as [n, k, ...], and how many of the k are a row's own.

    ``shape`` is [k, ...]. A row with fewer than k repeats its own from the first on; one with none
    is ``empty``. Raises ValueError for rows of other sizes.
    """
    most, size = shape[0], int(np.prod(shape[1:]))
    if most < 1 or size < 1:
        raise ValueError(f"embeddings of {' x '.join(map(str, shape))} numbers are none")
    counts, rest = np.divmod(lengths, size)
    if rest.any() or (counts > most).any():
        raise ValueError(f"an embedding is not one of {' x '.join(map(str, shape))} numbers")
    vectors = values.reshape(-1, *shape[1:])
    if len(vectors) == len(lengths) * most:
        return vectors.reshape(-1, *shape), counts
    firsts = np.cumsum(counts) - counts
    every = np.full((len(lengths), *shape), empty, values.dtype)
    some = counts > 0
    places = firsts[some, None] + np.arange(most) % counts[some, None]
    every[some] = vectors[places]
    return every, counts
