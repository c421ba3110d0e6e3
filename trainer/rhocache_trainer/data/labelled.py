"""Images with their classes, and a reference's losses of them: what a classifier is trained on."""

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import xxhash

from rhocache_schemas.dataset.formats import AUTO, find_kind, open_dataset
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.formats.image_folder import FolderBlock, ImageFolder
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import DatasetError, RowError, RowErrorCode
from rhocache_schemas.table.selection import Selection
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import JoinedPair
from rhocache_trainer.data.reference_losses import read_losses
from rhocache_trainer.data.selected import selected_pairs
from rhocache_trainer.loss.references import References

Label = Literal["text", "folder"]

_OF_TEXT = (RowErrorCode.TEXT_MISSING, RowErrorCode.TEXT_NOT_UTF8)


class ClassFolders(ImageFolder):
    """Images in a folder for each class, with captions or without: none is read."""

    needs_captions = False

    def load(self, pair: Pair) -> Pair:
        return cast("FolderBlock", self._contents[pair.shard]).load_image(pair)


class LabelledPairs:
    """The usable pairs of a dataset, numbered in its order, each with its class for a caption.

    A pair's class is its ``text``, wherever the dataset takes that from, or the last ``folder`` of
    its key. ``classes`` are the names that occur, sorted. ``reference_losses``, [n], are read from
    a table at ``reference``. With ``data.only`` all this is of a selection alone. Making it reads
    the dataset once, but of a folder's files no more than their names where the class is one of
    these.

    Raises DatasetError where there are fewer than two classes, and what opening a dataset and
    ``read_losses`` do.
    """

    def __init__(self, data: Data, label: Label, reference: str | None) -> None:
        self.references: References | None = None
        self.cached: slice | None = None
        self._label = label
        self._dataset = dataset = _open(data, label)
        selected = None
        if data.only is not None:
            selected = iter(selected_pairs(Selection.read(data.only), dataset).tolist())
        self._numbers: dict[str, npt.NDArray[np.int64]] = {}  # shard -> of each row, −1 for none
        self._positions: dict[str, list[int]] = {}  # shard -> of the rows that are read
        self.shards: list[Shard] = []
        samples: list[tuple[str | None, str]] = []
        classes: list[str] = []
        keyed = isinstance(dataset, KeyedFormat)  # whose shards are runs of rows, named by none
        for shard in dataset.shards:
            numbers: list[int] = []
            positions: list[int] = []
            for pair in dataset.read(shard):
                chosen = selected is None or next(selected)
                name = self._class(pair) if chosen else None
                numbers.append(-1 if name is None else len(samples))
                if chosen:
                    positions.append(pair.row)
                if name is not None:
                    samples.append((None if keyed else shard.name, pair.key))
                    classes.append(name)
            self.shards.append(replace(shard, rows=len(positions)))
            self._positions[shard.name] = positions
            self._numbers[shard.name] = np.array(numbers, dtype=np.int64)
        self.n = self.usable = len(samples)
        self.classes = sorted(set(classes))
        if len(self.classes) < 2:
            of = ", ".join(self.classes) or f"none: {dataset.describe()}"
            raise DatasetError(
                f"{data.dataset} has {self.n} images with a class, of {of}; a classifier needs 2 "
                "classes"
            )
        self.reference_losses = None
        if reference is not None:
            self.reference_losses = np.array(read_losses(reference, samples))
        self.identity = _identity(samples, classes, self.reference_losses)

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        return self._numbers[shard.name][self._positions[shard.name]]

    def keys(self) -> None:
        return None

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        numbers, positions = self._numbers[shard.name], self._positions[shard.name][start:]
        if not positions:
            return
        rows = set(positions)
        for pair in self._dataset.read(shard, positions[0]):
            if pair.row in rows:
                yield JoinedPair(pair, int(numbers[pair.row]))

    def load(self, joined: JoinedPair) -> JoinedPair:
        pair = self._labelled(self._dataset.load(joined.pair))
        try:
            pair.content()
        except RowError as error:
            where = f"shard {pair.shard}, key {pair.key}"
            raise RowError(error.code, f"{where}: {error}") from error
        return JoinedPair(pair, joined.index)

    def _class(self, pair: Pair) -> str | None:
        """The class of a pair that was read, or None for one that can't be used."""
        if isinstance(self._dataset, ClassFolders):
            return self._labelled(pair).caption
        pair = self._labelled(self._dataset.load(pair)).checked()
        return pair.caption if pair.error is None else None

    def _labelled(self, pair: Pair) -> Pair:
        if self._label == "text":
            return pair
        name = posixpath.basename(posixpath.dirname(pair.key))
        error = None if pair.error in _OF_TEXT else pair.error
        pair = replace(pair, caption=name or None, others=(), error=error)
        if name or error:
            return pair
        return pair.failed(RowErrorCode.TEXT_MISSING, "it lies in no folder, which is its class")


def _open(data: Data, label: Label) -> Format:
    kind = find_kind(data.dataset) if data.kind == AUTO else data.kind
    if label == "folder" and kind == ImageFolder.kind:
        return ClassFolders(data)
    return open_dataset(data, kind)


def _identity(
    samples: list[tuple[str | None, str]],
    classes: list[str],
    losses: npt.NDArray[np.float64] | None,
) -> str:
    hashed = xxhash.xxh3_128()
    for (shard, key), name in zip(samples, classes, strict=True):
        hashed.update("\0".join((shard or "", key, name, "")).encode(errors="surrogatepass"))
    if losses is not None:
        hashed.update(losses.tobytes())
    return f"{len(samples)} images {hashed.hexdigest()}"
