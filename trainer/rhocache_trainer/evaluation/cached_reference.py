"""Evaluating a reference from its cache alone: no weights are loaded."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_schemas.cache.reader import changes
from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.pair import HASH_BYTES, Pair, hash_caption
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import OF_ROWS
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
    opened = ReferenceCache.open(cache)
    evaluation = cached_evaluation(
        opened,
        dataset,
        shards=shards,
        class_field=class_field,
        linear_probe=linear_probe,
        probe_shards=probe_shards,
    )
    classifier: Classifier | None = None
    told: Templates | None = templates
    if prompts_cache is not None:
        classifier, told = cached_classifier(prompts_cache, opened, templates)
    device = choose_device(device)
    tested = CachedRows(opened, evaluation.shards, class_field)
    trained = None
    if evaluation.probe_shards:
        trained = CachedRows(opened, evaluation.probe_shards, class_field).images(device)
    return evaluation.measure(
        opened.manifest.reference.model,
        tested.images(device),
        tested.captions(device),
        classifier=classifier,
        templates=told,
        probe_images=trained,
        cache=cache,
    )


def cached_evaluation(
    cache: ReferenceCache,
    dataset: str,
    *,
    shards: str | None,
    class_field: str | None,
    linear_probe: bool,
    probe_shards: str | None,
) -> Evaluation:
    """Return the evaluation on a dataset that is read as the cache's was.

    Raises CacheIncomplete for a shard that is not in the cache, and what an Evaluation does.
    """
    read_as = {"dataset": dataset, "shards": shards}
    source = cache.manifest.source.model_copy(update=read_as)
    evaluation = Evaluation(
        source,
        kind=cache.manifest.format,
        class_field=class_field,
        linear_probe=linear_probe,
        probe_shards=probe_shards,
    )
    for shard in (*evaluation.shards, *evaluation.probe_shards):
        if shard.name not in cache.shards:
            raise cache.reader.missing_shard(shard.name)
    return evaluation


def cached_classifier(
    prompts_cache: str,
    cache: ReferenceCache,
    templates: Templates,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Classifier, Templates | None]:
    """Return what classifies by prompts that the reference has embedded, and their templates.

    They are in a table of class prompts, or a cache of single ones. ``encode`` is what still stands
    on them: on each prompt of a cache, and on the mean of a class's in a table.
    """
    if is_table(prompts_cache):
        table = _PromptsTable(prompts_cache, cache, encode)
        return table.classes, table.templates
    prompts = _CachedPrompts(ReferenceCache.open(prompts_cache), cache, templates, encode)
    return prompts.classes, templates


class CachedRows:
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
            self._hashes += [
                # Of imported rows nobody knows which captions are the same.
                rows.caption_hash[row] or f"{shard.name}\0{row}".encode()
                for row in ok.tolist()
            ]
            self._classes += [classes[row] for row in ok]
            self._places += [(shard.name, rows.keys[row]) for row in ok]
            self._skipped += len(rows) - len(ok)
        if not self._hashes:
            raise DatasetError(f"{cache.uri} has no usable row in the chosen shards")

    def images(self, device: str) -> EmbeddedImages:
        features = unit(torch.from_numpy(np.concatenate(self._image))).to(device)
        return EmbeddedImages(features, self._hashes, self._classes, self._places, self._skipped)

    def captions(self, device: str) -> EmbeddedCaptions:
        """Each caption's first embedding: the others differ by rounding at most."""
        first: dict[bytes | None, int] = {}
        for row, caption in enumerate(self._hashes):
            first.setdefault(caption, row)
        text = torch.from_numpy(np.concatenate(self._text)[list(first.values())])
        return EmbeddedCaptions(unit(text).to(device), list(first))


def _classes(cache: ReferenceCache, shard: Shard, class_field: str) -> list[str | None]:
    """The class of each row of a shard, by the key of its pair in the dataset."""
    classes: list[str | None] = [None] * len(cache.shard(shard.name))
    for row, pair in usable_pairs(cache, shard):
        classes[row] = class_of(pair.metadata, class_field)
    return classes


def usable_pairs(
    cache: ReferenceCache, shard: Shard, *, images: bool = True
) -> Iterator[tuple[int, Pair]]:
    """Yield a shard's pairs that have a usable row, with its place, compared with what was scored.

    Without ``images`` they are not read, and captions alone compared. Raises MissingPair and
    PairMismatch.
    """
    rows = cache.shard(shard.name)
    count = 0
    for pair in read_shard(shard, cache.manifest.source, images=images):
        count += 1
        where = f"shard {shard.name}, key {pair.key}"
        row = cache.row_by_key(shard.name, pair.key)
        if row is None:
            raise MissingPair(f"{where}: {cache.uri} has no row for this pair")
        if pair.error == RowErrorCode.DUPLICATE_KEY or not rows.ok[row]:
            continue
        imported = cache.manifest.fingerprint.imported
        image_hash = rows.image_hash[row] if images else pair.image_hash
        if changed := changes(pair, image_hash, rows.caption_hash[row], imported=imported):
            raise PairMismatch(f"{where}: {changed[0]}")
        yield row, pair
    if count != len(rows):
        raise PairMismatch(
            f"shard {shard.name} has {count} pairs, but {cache.uri} has {len(rows)} rows for it"
        )


class _PromptsTable:
    """Class prompts that were embedded over the cache.

    ``encode`` is what still stands on them. Raises what read_prompts raises.
    """

    def __init__(
        self, uri: str, cache: ReferenceCache, encode: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._uri = uri
        self._prompts = read_prompts(uri, cache.uri, cache.manifest)
        self._numbers = {name: number for number, name in enumerate(self._prompts.names)}
        self._encode = encode or unit
        self.templates: Templates | None = self._prompts.templates

    def classes(self, names: list[str]) -> Tensor:
        """A unit vector for each class: [d, classes]. Raises MissingPair."""
        for name in names:
            if name not in self._numbers:
                raise self._prompts.missing(self._uri, name)
        numbers = [self._numbers[name] for name in names]
        return self._encode(torch.from_numpy(self._prompts.vectors[numbers])).T


class _CachedPrompts:
    """The reference's embeddings of prompts, found by the hash of their text.

    ``encode`` is what still stands on them. Raises FingerprintMismatch.
    """

    def __init__(
        self,
        prompts_cache: ReferenceCache,
        cache: ReferenceCache,
        templates: Templates,
        encode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        ours, theirs = (
            # Where captions come from, and views of images, say nothing of how a text is embedded.
            each.manifest.fingerprint.model_dump(
                exclude={*OF_ROWS, "views", "format_version", "made_from"}
            )
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
        self._encode = encode or unit
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
            hashes = (hash_caption(prompt, width) for width in (HASH_BYTES, 8))
            text = next((self._text[each] for each in hashes if each in self._text), None)
            if text is None:
                raise MissingPair(
                    f"{self._uri} lacks the prompt {prompt!r} of class {name!r}: make it of the "
                    f"same dataset, class field and templates ({self._templates})"
                )
            found.append(text)
        return normalize(self._encode(torch.from_numpy(np.stack(found))).mean(dim=0), dim=0)


def unit(rows: Tensor) -> Tensor:
    """Stored embeddings have unit norm but for rounding."""
    return normalize(rows, dim=1)
