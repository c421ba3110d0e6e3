"""Evaluating a model of which a cache's embeddings are a part: those of the dataset's own cache."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import FingerprintMismatch, InvalidInput
from rhocache_trainer.cache.reader import ReferenceCache
from rhocache_trainer.evaluation.cached_reference import (
    CachedRows,
    cached_classifier,
    cached_evaluation,
    usable_pairs,
)
from rhocache_trainer.evaluation.measures import Classifier, EmbeddedCaptions, EmbeddedImages
from rhocache_trainer.evaluation.prompts import TEMPLATES, Templates, spoken
from rhocache_trainer.evaluation.result import EvaluationResult, choose_device
from rhocache_trainer.model.cached import CachedModel, load_cached

_BATCH = 256


def evaluate_cached(
    model: str,
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
    """Evaluate a model's folder, as ``train`` exports it with ``cached``, as ``evaluate_cache``.

    ``cache`` is the dataset's, by the reference that the model was trained on. Of the dataset no
    more is read than a tower that was trained takes, and with a ``class_field`` the classes. A text
    tower embeds its own prompts; where texts are cached zero-shot accuracy needs ``prompts_cache``.

    Raises as ``evaluate_cache`` does, and FingerprintMismatch for a cache of another reference.
    """
    opened, made = ReferenceCache.open(cache), load_cached(model)
    _check_same(made, opened)
    if made.cached.text is None and prompts_cache is not None:
        raise InvalidInput("the model's text tower embeds its own prompts: leave their cache out")
    if made.cached.text and class_field and prompts_cache is None and not linear_probe:
        raise InvalidInput(
            "zero-shot accuracy needs the prompts' embeddings: make their cache with "
            "`rhocache prompts` and `rhocache score`, or ask for a linear probe"
        )
    evaluation = cached_evaluation(
        opened,
        dataset,
        shards=shards,
        class_field=class_field,
        linear_probe=linear_probe,
        probe_shards=probe_shards,
    )
    embedder = _Embedder(made, opened, choose_device(device))
    classifier, told = None, templates
    if class_field is not None:
        classifier, told = embedder.classifier(prompts_cache, templates)
    tested = CachedRows(opened, evaluation.shards, class_field)
    trained = None
    if evaluation.probe_shards:
        rows = CachedRows(opened, evaluation.probe_shards, class_field)
        trained = embedder.images(rows, evaluation.probe_shards)
    return evaluation.measure(
        model,
        embedder.images(tested, evaluation.shards),
        embedder.captions(tested, evaluation.shards),
        classifier=classifier,
        templates=told,
        probe_images=trained,
        cache=cache,
    )


def _check_same(model: CachedModel, cache: ReferenceCache) -> None:
    reference, made = model.reference, cache.manifest
    if made.fingerprint.weights_sha256 != reference["weights_sha256"]:
        raise FingerprintMismatch(
            f"{cache.uri} was made by {made.reference.model}, and the model was trained on the "
            f"embeddings of {reference['model']}: score the dataset with that"
        )


class _Embedder:
    """A model's towers and heads, on rows of a cache and what else they take of the dataset."""

    def __init__(self, model: CachedModel, cache: ReferenceCache, device: str) -> None:
        self._model, self._cache, self._device = model, cache, device
        model.module.to(device)

    def images(self, rows: CachedRows, shards: Sequence[Shard]) -> EmbeddedImages:
        cached = rows.images(self._device)
        inputs = [cached.features] if self._model.cached.image else self._pictures(shards)
        return replace(cached, features=self._encoded(inputs, "encode_image"))

    def captions(self, rows: CachedRows, shards: Sequence[Shard]) -> EmbeddedCaptions:
        cached = rows.captions(self._device)
        inputs = [cached.features] if self._model.cached.text else self._tokens(shards, cached)
        return replace(cached, features=self._encoded(inputs, "encode_text"))

    def classifier(
        self, prompts_cache: str | None, templates: Templates
    ) -> tuple[Classifier | None, Templates | None]:
        """Return what classifies, None where there are no prompts for it, and their templates."""
        if self._model.cached.text is None:
            return self._zero_shot(templates), templates
        if prompts_cache is None:
            return None, templates

        def encode(embeddings: Tensor) -> Tensor:
            return self._encoded([embeddings.to(self._device)], "encode_text")

        return cached_classifier(prompts_cache, self._cache, templates, encode)

    def _zero_shot(self, templates: Templates) -> Classifier:
        return lambda names: open_clip.build_zero_shot_classifier(
            self._model.module,
            self._model.tokenizer,
            [spoken(name) for name in names],
            TEMPLATES[templates],
            device=self._device,
        )

    @torch.no_grad()
    def _encoded(self, inputs: Iterator[Tensor] | list[Tensor], by: str) -> Tensor:
        encode = getattr(self._model.module, by)
        return torch.cat([encode(each.to(self._device), normalize=True) for each in inputs]).float()

    def _pictures(self, shards: Sequence[Shard]) -> Iterator[Tensor]:
        preprocess: Any = image_transform_v2(
            PreprocessCfg(**self._model.preprocess_cfg), is_train=False
        )
        found: Iterator[Tensor] = (
            preprocess(open_image(pair.image or b""))
            for shard in shards
            for _, pair in usable_pairs(self._cache, shard)
        )
        while batch := list(islice(found, _BATCH)):
            yield torch.stack(batch)

    def _tokens(self, shards: Sequence[Shard], cached: EmbeddedCaptions) -> Iterator[Tensor]:
        texts: dict[object, str] = {}
        for shard in shards:
            hashes = self._cache.shard(shard.name).caption_hash
            for row, pair in usable_pairs(self._cache, shard, images=False):
                texts.setdefault(hashes[row], pair.caption or "")
        ordered = [texts[each] for each in cached.captions]
        for start in range(0, len(ordered), _BATCH):
            yield self._model.tokenizer(ordered[start : start + _BATCH])
