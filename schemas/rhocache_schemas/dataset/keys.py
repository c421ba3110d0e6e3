"""Which pair a key means: one rule for tars, folders and tables, however a tool has spelled it.

A pair's key is the path of its files up to the first dot of the last part, as webdataset has it.
Of the same pair one tool writes ``0000017``, another ``./0000017.jpg``, ``images/0000017``,
``images\\0000017`` or the number 17. So two keys mean the same pair where they are equal, or else
where the longest end that their paths have in common (in NFC, by whole parts, from the last part's
first dot and leading zeros on) is one that no other key has. That is a guess until the hashes of
image and caption are compared, which every join does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # whose stubs know no strings and numbers beside columns

Strings = Any  # an Array or ChunkedArray, whose stubs know no masks
Positions = npt.NDArray[np.int64]

ABSENT = -1
AMBIGUOUS = -2
_DEPTH = 8  # parts of a path that are compared
_SEPARATOR = pa.scalar("\0", pa.large_string())


def find_keys(
    asked: Strings,
    known: Strings,
    groups: tuple[Strings, Strings] | None = None,
    paths: Callable[[], Strings] | None = None,
) -> Positions:
    """Return each asked key's position among the known ones, ABSENT or AMBIGUOUS.

    All are large_string. ``groups`` are names, of what each asked and each known key lies in, that
    must be equal. ``paths`` makes longer names of the known keys, for where those are not equal.

    Raises pyarrow.ArrowInvalid for strings that are not UTF-8.
    """
    ours, theirs = groups or (None, None)
    found = _positions(_grouped(ours, asked), _grouped(theirs, known))
    left = np.flatnonzero(found == ABSENT)
    if not len(left):
        return found
    rest = canonical(asked.take(pa.array(left)))
    ours = None if ours is None else ours.take(pa.array(left))
    known_paths = canonical(known if paths is None else paths())
    for depth in range(depth_of(rest), 0, -1):
        ends = _grouped(ours, ends_of(rest, depth)), _grouped(theirs, ends_of(known_paths, depth))
        found[left] = here = _positions(*ends)
        still = here == ABSENT
        left, rest = left[still], rest.filter(pa.array(still))
        ours = None if ours is None else ours.filter(pa.array(still))
        if not len(left):
            break
    return found


class KeyTable:
    """The keys of one shard, to be found one by one. Of an equal key it is the first that counts.

    Its memory is that of a few strings a key, the second half of it only where a key is not equal.
    """

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        last = len(keys) - 1
        self._equal = {key: last - row for row, key in enumerate(reversed(keys))}
        self._paths: list[str] = []
        self._ends: dict[str, int] = {}

    def find(self, key: str, *, whole: bool = False) -> int | None:
        """Return the position of a key, by the rule above.

        With ``whole``, where no hash will tell a mistake, one of the two must be the end of the
        other.
        """
        if key in self._equal:
            return self._equal[key]
        if not self._ends:
            self._fill()
        path = canonical(pa.array([key], pa.large_string()))[0].as_py()
        parts = path.split("/")
        for first in range(len(parts)):
            end = "/".join(parts[first:])
            row = self._ends.get(end, ABSENT)
            if row != ABSENT:
                fits = row != AMBIGUOUS and (not whole or end in (path, self._paths[row]))
                return row if fits else None
        return None

    def _fill(self) -> None:
        paths = canonical(pa.array(self._equal, pa.large_string()))
        rows = list(self._equal.values())
        self._paths = [""] * len(self._keys)
        for row, path in zip(rows, paths.to_pylist(), strict=True):
            self._paths[row] = path
        for depth in range(1, depth_of(paths) + 1):
            for row, end in zip(rows, ends_of(paths, depth).to_pylist(), strict=True):
                if self._ends.setdefault(end, row) != row:
                    self._ends[end] = AMBIGUOUS


def canonical(keys: Strings) -> Any:
    """Return keys without what tools write differently; their parts are divided by ``/``."""
    paths = pc.replace_substring(pc.utf8_normalize(keys, "NFC"), "\\", "/")
    paths = pc.replace_substring_regex(paths, r"(^|/)(?:\.?/)+", r"\1")  # ./a, /a, a//b, a/./b
    return pc.replace_substring_regex(without_suffix(paths), r"(^|/)0+([0-9]+)$", r"\1\2")


def below(folders: Strings, keys: Strings) -> Any:
    """Return the paths of keys in folders, both large_string."""
    return pc.binary_join_element_wise(folders, keys, pa.scalar("/", pa.large_string()))


def without_suffix(paths: Strings) -> Any:
    """Return paths up to the first dot of their last part."""
    return pc.replace_substring_regex(paths, r"(?s)(^|/)([^/.]*)\.[^/]*$", r"\1\2")


def depth_of(paths: Any) -> int:
    """Return the number of parts of the longest path, as far as they are compared."""
    parts = pc.max(pc.count_substring(paths, "/")).as_py()
    return min((parts or 0) + 1, _DEPTH)


def ends_of(paths: Any, depth: int) -> Any:
    """Return the last ``depth`` parts of each path, all of one that has no more."""
    part = "[^/]*/"
    return pc.replace_substring_regex(paths, rf"(?s)^.*/((?:{part}){{{depth - 1}}}[^/]*)$", r"\1")


def _grouped(groups: Any, keys: Any) -> Any:
    return keys if groups is None else pc.binary_join_element_wise(groups, keys, _SEPARATOR)


def _positions(asked: Any, known: Any) -> Positions:
    found = pc.index_in(asked, value_set=known).fill_null(ABSENT).to_numpy(zero_copy_only=False)
    found = found.astype(np.int64)
    if pc.count_distinct(known).as_py() < len(known):
        counts = pc.value_counts(known)
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        found[pc.is_in(asked, value_set=repeated).to_numpy(zero_copy_only=False)] = AMBIGUOUS
    return found
