"""A reference's cross-entropies of labelled images, zero-shot, from its cache alone.

With the embeddings x_i of the images, the unit vectors w_c of the class prompts and the reference's
logit scale s, loss_i = log Σ_c exp(s x_i · w_c) − s x_i · w_y for the label y of image i.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from rhocache_schemas import storage
from rhocache_schemas.job.kinds.classify import ClassifySpec
from rhocache_schemas.table.documents import Column
from rhocache_schemas.table.prompts import Prompts, read_prompts
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache.embeddings import read_blocks
from rhocache_workers.over_cache.labels import FileLabels, dataset_labels
from rhocache_workers.over_cache.work import PairWork

_COLUMNS = (
    Column(name="loss", type="double", description="cross-entropy of the label"),
    Column(name="label", type="string", description="the class that the pair has"),
    Column(name="predicted", type="string", description="the class of the largest logit"),
)


class Classify(PairWork[ClassifySpec]):
    """Pairs without a label have nulls, as those have that are not ok."""

    shown = "loss"

    def columns(self) -> Sequence[Column]:
        return _COLUMNS

    def inputs(self) -> Mapping[str, str]:
        """Raises what TableReader.open raises, and StorageError."""
        hashes = {"prompts": TableReader.open(self.spec.prompts).manifest.index_sha256}
        if self.spec.labels is not None:
            hashes["labels"] = storage.sha256(self.spec.labels)
        return hashes

    def check(self) -> None:
        """Raises FingerprintMismatch, MissingPair and InvalidInput for labels that can't be."""
        prompts = self._prompts
        if self.spec.labels is not None:
            _check(self.spec.prompts, prompts, FileLabels(self.spec.labels, prompts.names).every)

    @cached_property
    def _prompts(self) -> Prompts:
        return read_prompts(self.spec.prompts, self.cache.uri, self.cache.manifest)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_prompts"}

    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        prompts = self._prompts
        numbers = {name: number for number, name in enumerate(prompts.names)}
        file = None
        if self.spec.labels is not None:
            file = FileLabels(self.spec.labels, prompts.names)
        for shard in shards:
            if file is not None:
                keys = self.cache.columns(shard, ["key"])["key"].to_pylist()
                labels = file.of(shard, list(map(str, keys)))
            else:
                labels = dataset_labels(self.cache, shard, self.spec)
                _check(self.spec.prompts, prompts, labels)
            yield shard, self._losses(shard, labels, numbers)

    def _losses(
        self, shard: str, labels: Sequence[str | None], numbers: Mapping[str, int]
    ) -> pa.Table:
        (rows,) = read_blocks(self.cache, [shard])
        usable = rows.usable[shard]
        scale, names = self.cache.manifest.known_logit_scale, self._prompts.names
        logits = scale * (rows.image.astype(np.float32) @ self._prompts.vectors.T).astype(float)
        whole = np.logaddexp.reduce(logits, axis=1)
        found: list[dict[str, Any]] = [{}] * len(labels)
        for place, row in enumerate(np.flatnonzero(usable).tolist()):
            label = labels[row]
            if label is not None:
                found[row] = {
                    "loss": whole[place] - logits[place, numbers[label]],
                    "label": label,
                    "predicted": names[int(logits[place].argmax())],
                }
        schema = pa.schema(
            [("loss", pa.float64()), ("label", pa.string()), ("predicted", pa.string())]
        )
        return pa.Table.from_pylist(found, schema=schema)


def _check(uri: str, prompts: Prompts, labels: Sequence[str | None]) -> None:
    """Raise MissingPair for a label that is none of the classes, and how many images have it."""
    known = set(prompts.names)
    others = Counter(label for label in labels if label is not None and label not in known)
    for name, images in others.most_common(1):
        raise prompts.missing(uri, name, images)
