"""Evaluating a reference from its cache alone: no weights are loaded."""

from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_schemas.cache.reader import changes
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import hash_caption
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import (
    DatasetError,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
    PairMismatch,
    RowErrorCode,
)
from rhocache_schemas.table.prompts import read_prompts
from rhocache_schemas.table.reader import is_table
from rhocache_trainer.cache.reader import ReferenceCache
from rhocache_trainer.evaluation.measures import Classifier, EmbeddedCaptions, EmbeddedImages
from rhocache_trainer.evaluation.prompts import Templates, class_of, prompts
from rhocache_trainer.evaluation.result import Evaluation, EvaluationResult, choose_device


def evaluate_cache(
    cache: str,
    dataset: str,
    *,
    prompts_cache: str | None = None,
    shards: str | None = None,
    class_field: str | None = None,
    templates: Templates = "openai",
    linear_probe: bool = False,
    probe_shards: str | None = None,
    device: str = "auto",
) -> EvaluationResult:
    """Evaluate the reference that made a cache, on the dataset that it scored, as ``evaluate``.

    Image and text embeddings are those of view 0 and caption 0. The dataset itself is read only
    with a ``class_field``: every pair is then compared by hash with what the reference saw. For
    zero-shot accuracy ``prompts_cache`` is a table of class prompts that `rhocache prompts` made
    over the cache, or the cache of a dataset that ``write_prompts`` made, with the same
    ``templates``, scored by the same reference.

    Raises InvalidInput when the options don't go together, FingerprintMismatch when another
    reference scored the prompts, CacheIncomplete for a shard that is not in the cache, MissingPair
    for a pair or a prompt that is not, PairMismatch for a pair that has changed since, and
    DatasetError when no pair has a class.
    """
    if prompts_cache is not None and class_field is None:
        raise InvalidInput("prompts classify: say which field has the pairs' classes")
    if class_field is not None and prompts_cache is None and not linear_probe:
        raise InvalidInput(
            "zero-shot accuracy needs the prompts' embeddings: make them with `rhocache prompts`, "
            "or ask for a linear probe"
        )
    evaluation = Evaluation(
        dataset,
        shards=shards,
        class_field=class_field,
        linear_probe=linear_probe,
        probe_shards=probe_shards,
    )
    opened = ReferenceCache.open(cache)
    for shard in (*evaluation.shards, *evaluation.probe_shards):
        if shard.name not in opened.shards:
            raise opened.reader.missing_shard(shard.name)
    classifier: Classifier | None = None
    told: Templates | None = templates
    if prompts_cache is not None and is_table(prompts_cache):
        table = _PromptsTable(prompts_cache, opened)
        classifier, told = table.classes, table.templates
    elif prompts_cache is not None:
        classifier = _Prompts(ReferenceCache.open(prompts_cache), opened, templates).classes
    device = choose_device(device)
    tested = _Rows(opened, evaluation.shards, class_field)
    trained = None
    if evaluation.probe_shards:
        trained = _Rows(opened, evaluation.probe_shards, class_field).images(device)
    return evaluation.measure(
        opened.manifest.reference.model,
        tested.images(device),
        tested.captions(device),
        classifier=classifier,
        templates=told,
        probe_images=trained,
        cache=cache,
    )


class _Rows:
    """The usable rows of some shards, joined with their pairs' classes when a field is named."""

    def __init__(
        self, cache: ReferenceCache, shards: Sequence[Shard], class_field: str | None
    ) -> None:
        self._image: list[np.ndarray] = []  # each [rows, d]
        self._text: list[np.ndarray] = []
        self._hashes: list[bytes | None] = []  # of captions
        self._classes: list[str | None] = []
        self._places: list[tuple[str, str]] = []
        self._skipped = 0
        console = Console(stderr=True)
        hidden = not console.is_terminal
        for shard in track(shards, "evaluating", console=console, disable=hidden):
            rows = cache.shard(shard.name)
            classes: list[str | None] = [None] * len(rows)
            if class_field is not None:
                classes = _classes(cache, shard, class_field)
            ok = np.flatnonzero(rows.ok)
            self._image.append(rows.image[ok, 0].astype(np.float32))
            self._text.append(rows.text[ok, 0].astype(np.float32))
            self._hashes += [rows.caption_hash[row] for row in ok]
            self._classes += [classes[row] for row in ok]
            self._places += [(shard.name, rows.keys[row]) for row in ok]
            self._skipped += len(rows) - len(ok)
        if not self._hashes:
            raise DatasetError(f"{cache.uri} has no usable row in the chosen shards")

    def images(self, device: str) -> EmbeddedImages:
        features = _unit(np.concatenate(self._image)).to(device)
        return EmbeddedImages(features, self._hashes, self._classes, self._places, self._skipped)

    def captions(self, device: str) -> EmbeddedCaptions:
        """Each caption's first embedding: the others differ by rounding at most."""
        first: dict[bytes | None, int] = {}
        for row, caption in enumerate(self._hashes):
            first.setdefault(caption, row)
        text = np.concatenate(self._text)[list(first.values())]
        return EmbeddedCaptions(_unit(text).to(device), list(first))


def _classes(cache: ReferenceCache, shard: Shard, class_field: str) -> list[str | None]:
    """The class of each row of a shard, by the key of its pair in the dataset."""
    rows = cache.shard(shard.name)
    classes: list[str | None] = [None] * len(rows)
    count = 0
    for pair in ShardReader(shard, cache.manifest.fingerprint.caption_field):
        count += 1
        where = f"shard {shard.name}, key {pair.key}"
        row = cache.row_by_key(shard.name, pair.key)
        if row is None:
            raise MissingPair(f"{where}: {cache.uri} has no row for this pair")
        if pair.error == RowErrorCode.DUPLICATE_KEY or not rows.ok[row]:
            continue
        if changed := changes(pair, rows.image_hash[row], rows.caption_hash[row]):
            raise PairMismatch(f"{where}: {changed[0]}")
        classes[row] = class_of(pair.metadata, class_field)
    if count != len(rows):
        raise PairMismatch(
            f"shard {shard.name} has {count} pairs, but {cache.uri} has {len(rows)} rows for it"
        )
    return classes


class _PromptsTable:
    """Class prompts that were embedded over the cache.

    Raises what read_prompts raises.
    """

    def __init__(self, uri: str, cache: ReferenceCache) -> None:
        self._uri = uri
        self._prompts = read_prompts(uri, cache.uri, cache.manifest)
        self._numbers = {name: number for number, name in enumerate(self._prompts.names)}
        self.templates: Templates | None = self._prompts.templates

    def classes(self, names: list[str]) -> Tensor:
        """A unit vector for each class: [d, classes]. Raises MissingPair."""
        for name in names:
            if name not in self._numbers:
                raise self._prompts.missing(self._uri, name)
        numbers = [self._numbers[name] for name in names]
        return torch.from_numpy(self._prompts.vectors[numbers].T)


class _Prompts:
    """The reference's embeddings of prompts, found by the hash of their text.

    Raises FingerprintMismatch.
    """

    def __init__(
        self, prompts_cache: ReferenceCache, cache: ReferenceCache, templates: Templates
    ) -> None:
        ours, theirs = (
            # Where captions come from, and views of images, say nothing of how a text is embedded.
            each.manifest.fingerprint.model_dump(exclude={"caption_field", "views"})
            for each in (cache, prompts_cache)
        )
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            raise FingerprintMismatch(
                f"{prompts_cache.uri} and {cache.uri} were made by different references or with "
                f"different options ({', '.join(differing)}): score the prompts with the reference "
                "of the dataset's cache"
            )
        self._uri = prompts_cache.uri
        self._templates: Templates = templates
        self._text: dict[bytes | None, np.ndarray] = {}
        for name in prompts_cache.shards:
            rows = prompts_cache.shard(name)
            for row in np.flatnonzero(rows.ok):
                self._text[rows.caption_hash[row]] = rows.text[row, 0].astype(np.float32)

    def classes(self, names: list[str]) -> Tensor:
        """The mean of each class's prompts, as a unit vector: [d, classes]."""
        return torch.stack([self._class(name) for name in names], dim=1)

    def _class(self, name: str) -> Tensor:
        found = []
        for prompt in prompts(name, self._templates):
            text = self._text.get(hash_caption(prompt))
            if text is None:
                raise MissingPair(
                    f"{self._uri} lacks the prompt {prompt!r} of class {name!r}: make it of the "
                    f"same dataset, class field and templates ({self._templates})"
                )
            found.append(text)
        return normalize(_unit(np.stack(found)).mean(dim=0), dim=0)


def _unit(rows: np.ndarray) -> Tensor:
    """Stored embeddings have unit norm but for rounding."""
    return normalize(torch.from_numpy(rows), dim=1)
