"""Keeps the embeddings of the pairs that are left in files, where any of them is at hand."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache.reader import CacheReader
from rhocache_workers.over_cache.embeddings import read_blocks

Vectors = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stored:
    image: Vectors  # [m, d], mapped from a file, as the cache stores them
    text: Vectors
    numbers: Numbers  # [m], of the pairs, ascending

    def places(self, numbers: Numbers) -> Numbers:
        return np.searchsorted(self.numbers, numbers)


@contextmanager
def store(cache: CacheReader, numbers: Numbers) -> Generator[Stored]:
    """Copy the embeddings of these usable pairs into a temporary folder."""
    with TemporaryDirectory(prefix="rhocache-") as folder:
        files: list[Vectors] = []
        first = 0
        for block in read_blocks(cache, list(cache.index), at_least=4096):
            rows = np.flatnonzero(np.isin(block.numbers, numbers, assume_unique=True))
            sides = block.image[rows], block.text[rows]
            if not files:
                files = [
                    np.lib.format.open_memmap(
                        Path(folder, name), "w+", side.dtype, (len(numbers), side.shape[1])
                    )
                    for name, side in zip(("image.npy", "text.npy"), sides, strict=True)
                ]
            for file, side in zip(files, sides, strict=True):
                file[first : first + len(rows)] = side
            first += len(rows)
        image, text = files
        yield Stored(image, text, numbers)
