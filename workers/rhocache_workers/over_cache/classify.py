"""A reference's cross-entropies of labelled images, from its cache.

With the logits z_i of image i and its label y, loss_i = log Σ_c exp(z_ic) − z_iy. Zero-shot they
are z_ic = s x_i · w_c, with the embeddings x_i of the images, the unit vectors w_c of the class
prompts and the reference's logit scale s; or a classifier makes them, of x_i or of the picture.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas import storage
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import InvalidInput, MissingPair
from rhocache_schemas.job.kinds.classify import ClassifySpec
from rhocache_schemas.table.documents import Column
from rhocache_schemas.table.prompts import Prompts, read_prompts, some_of
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache.class_names import read_classes
from rhocache_workers.over_cache.labels import FileLabels
from rhocache_workers.over_cache.scored_dataset import ScoredDataset
from rhocache_workers.over_cache.work import PairWork

if TYPE_CHECKING:
    from rhocache_workers.encode.viewer import Viewer
    from rhocache_workers.over_cache.classifier import Classifier

_COLUMNS = (
    Column(name="loss", type="double", description="cross-entropy of the label"),
    Column(name="label", type="string", description="the class that the pair has"),
    Column(name="predicted", type="string", description="the class of the largest logit"),
)

Labels = Sequence[str | None]
Logits = npt.NDArray[np.float64]  # [n, classes]
Chosen = npt.NDArray[np.int64]  # [n], their rows


class Classify(PairWork[ClassifySpec]):
    """Pairs without a label have nulls, as those have that are not ok.

    Where a loss is not finite, as logits can be anything, loss and predicted are null.
    """

    shown = "loss"
    _sha256 = ""  # of the classifier

    def columns(self) -> Sequence[Column]:
        return _COLUMNS

    def locations(self) -> Sequence[str]:
        """Where the dataset is, as far as the cache's manifest tells."""
        if self.spec.labels is not None and self.spec.classifier is None:
            return ()
        manifest = self.cache.manifest
        where = manifest.dataset if self.spec.dataset is None else None
        return [place for place in (where, manifest.images) if place is not None]

    def inputs(self) -> Mapping[str, str]:
        """Raises what TableReader.open raises, and StorageError."""
        spec = self.spec
        hashes: dict[str, str] = {}
        if spec.prompts is not None:
            hashes["prompts"] = TableReader.open(spec.prompts).manifest.index_sha256
        if spec.classifier is not None and spec.classes is not None:
            hashes["classifier"] = self._sha256 = storage.sha256(spec.classifier)
            hashes["classes"] = storage.sha256(spec.classes)
        if spec.labels is not None:
            hashes["labels"] = storage.sha256(spec.labels)
        return hashes

    def check(self) -> None:
        """Raises FingerprintMismatch, MissingPair and InvalidInput for what can't be."""
        if self._file is not None:
            self._check_labels(self._file.every)
        if self.spec.classifier is not None:
            self._check_classifier(self._classifier)

    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        of_pictures = self.spec.classifier is not None and self._classifier.size is not None
        found = self._dataset.find(shards) if of_pictures or self._file is None else {}
        for name in shards:
            rows, _ = self.cache.rows(name)
            if of_pictures:
                labels, chosen, logits = self._of_pictures(found[name], rows)
            else:
                labels = self._labels(rows, name, found.get(name))
                chosen = np.flatnonzero(rows.ok & [label is not None for label in labels])
                logits = self._of_embeddings(rows.image[chosen, 0].astype(np.float32))
            self._check_labels(labels)
            yield name, self._table(labels, chosen, logits)

    def _labels(self, rows: ShardRows, name: str, shard: Shard | None) -> Labels:
        if self._file is not None:
            return self._file.of(name, rows.keys)
        assert shard is not None  # noqa: S101 (found, as there is no file)
        return [label for _, label in self._dataset.pairs(shard, images=False)]

    def _of_embeddings(self, images: npt.NDArray[np.float32]) -> Logits:
        if self._prompts is not None:
            scale = self.cache.manifest.known_logit_scale
            return scale * (images @ self._prompts.vectors.T).astype(float)
        import torch

        return self._classifier.logits(torch.from_numpy(images))

    def _of_pictures(self, shard: Shard, rows: ShardRows) -> tuple[Labels, Chosen, Logits]:
        from rhocache_workers.over_cache.pictures import logits_of

        given = None if self._file is None else self._file.of(shard.name, rows.keys)
        ok, labels, chosen = rows.ok, list[str | None](), list[int]()

        def wanted() -> Iterator[Pair]:
            for row, (pair, label) in enumerate(self._dataset.pairs(shard, images=True)):
                labels.append(label if given is None else given[row])
                if ok[row] and labels[row] is not None:
                    self._dataset.check_picture(pair, rows.image_hash[row])
                    chosen.append(row)
                    yield pair

        logits = logits_of(self._classifier, self._viewer, wanted())
        return labels, np.array(chosen, np.int64), logits

    def _table(self, labels: Labels, chosen: Chosen, logits: Logits) -> pa.Table:
        names = self._names
        numbers = {name: number for number, name in enumerate(names)}
        asked = [numbers[labels[row] or ""] for row in chosen.tolist()]
        with np.errstate(invalid="ignore"):
            losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(asked)), asked]
        found: list[dict[str, Any]] = [{"label": label} for label in labels]
        for place in np.flatnonzero(np.isfinite(losses)).tolist():
            best = names[int(logits[place].argmax())]
            found[chosen[place]] |= {"loss": losses[place], "predicted": best}
        schema = pa.schema(
            [("loss", pa.float64()), ("label", pa.string()), ("predicted", pa.string())]
        )
        return pa.Table.from_pylist(found, schema=schema)

    def _check_classifier(self, classifier: "Classifier") -> None:
        """Raises InvalidInput, also where it fails on a first input."""
        spec, names = self.spec, self._names
        if classifier.classes != len(names):
            raise InvalidInput(
                f"{spec.classifier} makes {classifier.classes} logits, and {spec.classes} has "
                f"{len(names)} classes: name each of the logits, in their order"
            )
        unused = [name for name in ("mean", "std") if getattr(spec, name) is not None]
        unused += ["dataset"] if spec.labels and spec.dataset else []
        if classifier.size is None and unused:
            raise InvalidInput(
                f"{spec.classifier} takes embeddings, and no pictures: leave out "
                + ", ".join(unused)
            )
        classifier.try_out()

    @cached_property
    def _file(self) -> FileLabels | None:
        labels = self.spec.labels
        return None if labels is None else FileLabels(labels, self._names)

    @cached_property
    def _dataset(self) -> ScoredDataset:
        return ScoredDataset(self.cache, self.spec, self.roots)

    @cached_property
    def _names(self) -> list[str]:
        """Of the classes, in the order of the logits."""
        if self._prompts is not None:
            return self._prompts.names
        return read_classes(str(self.spec.classes))

    def _check_labels(self, labels: Labels) -> None:
        """Raise MissingPair for a label that is none of the classes."""
        known = set(self._names)
        others = Counter(label for label in labels if label is not None and label not in known)
        for name, images in others.most_common(1):
            if self._prompts is not None:
                raise self._prompts.missing(str(self.spec.prompts), name, images)
            raise MissingPair(
                f"{self.spec.classes} has no class {name!r}, which {images} images have; it has "
                f"{len(known)}: {some_of(self._names)}"
            )

    @cached_property
    def _prompts(self) -> Prompts | None:
        if self.spec.prompts is None:
            return None
        return read_prompts(self.spec.prompts, self.cache.uri, self.cache.manifest)

    @cached_property
    def _classifier(self) -> "Classifier":
        from rhocache_workers.over_cache.classifier import load_classifier

        location, dimension = str(self.spec.classifier), self.cache.manifest.dimension
        return load_classifier(location, self._sha256, dimension)

    @cached_property
    def _viewer(self) -> "Viewer":
        """Shows pictures as the reference sees them, but at the classifier's size, mean and std."""
        from rhocache_workers.encode.viewer import Viewer
        from rhocache_workers.reference.preprocess import Preprocess

        own = {"size": self._classifier.size, "mean": self.spec.mean, "std": self.spec.std}
        asked = {name: value for name, value in own.items() if value is not None}
        return Viewer(Preprocess.of(self.cache.manifest.fingerprint.preprocessing | asked))

    def __getstate__(self) -> dict[str, Any]:
        """What is large, or can't be sent, is made again where it is asked for."""
        kept = ("spec", "cache", "roots", "_sha256")
        return {name: value for name, value in vars(self).items() if name in kept}
