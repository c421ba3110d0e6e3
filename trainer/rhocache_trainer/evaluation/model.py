"""Evaluating a model: its towers embed the dataset's images, captions and prompts."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError, InvalidInput, RowError, TrainingError
from rhocache_schemas.reference import HF_HUB, LOCAL_DIR
from rhocache_trainer.evaluation.measures import EmbeddedCaptions, EmbeddedImages
from rhocache_trainer.evaluation.prompts import TEMPLATES, Templates, class_of, spoken
from rhocache_trainer.evaluation.result import Evaluation, EvaluationResult, choose_device
from rhocache_trainer.model.cached import needs_cache
from rhocache_trainer.model.clip import ClipModel, build_model


def evaluate(
    model: str,
    dataset: str,
    *,
    shards: str | None = None,
    caption_field: str | None = None,
    class_field: str | None = None,
    templates: Templates = "openai",
    linear_probe: bool = False,
    probe_shards: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> EvaluationResult:
    """Evaluate a model's folder, as ``train`` exports it, on a dataset.

    Any other open_clip ``local-dir`` will do: a reference, for one. Retrieval is among all images
    and all *different* captions of the chosen shards. A caption that several images share counts
    once, and each of its images is a hit for it; an image's hit is its own caption. Where two
    items are equally near, the wrong one is taken to come first.

    ``class_field`` names the field of each pair's JSON that holds its class; zero-shot accuracy is
    over the pairs that have one. Underscores in class names become spaces in the prompts. Without
    ``class_field`` there is no zero-shot result.

    ``linear_probe`` trains a linear classifier on image features, of the shards that match the
    glob ``probe_shards``, and tests it on ``shards``; without ``probe_shards``, it trains on four
    fifths of the pairs and tests on the others.

    Raises InvalidInput when the options don't go together, DatasetError when no pair can be read
    or none has a class, and TrainingError when the model gives embeddings that are not finite.
    """
    source = Source(dataset=dataset, shards=shards, caption_field=caption_field)
    evaluation = Evaluation(
        source,
        class_field=class_field,
        linear_probe=linear_probe,
        probe_shards=probe_shards,
    )
    if needs_cache(model):
        raise InvalidInput(
            f"{model} takes the embeddings of {dataset} from its cache: name that with --cache"
        )
    clip = _Clip(model, batch_size, device)

    def images(chosen: Sequence[Shard]) -> EmbeddedImages:
        reader = _Reader(chosen, source, class_field)
        found = clip.images(reader)
        if found is None:
            raise DatasetError(
                f"{dataset} has no pair that can be evaluated: {evaluation.opened.describe()}"
            )
        return found

    tested = images(evaluation.shards)
    return evaluation.measure(
        model,
        tested,
        clip.captions(sorted({str(caption) for caption in tested.captions})),
        classifier=None if class_field is None else lambda names: clip.classes(names, templates),
        templates=templates,
        probe_images=images(evaluation.probe_shards) if evaluation.probe_shards else None,
    )


class _ReadPair(NamedTuple):
    image: Image.Image
    caption: str
    name: str | None  # of its class
    place: tuple[str, str]


class _Reader:
    """The pairs that can be used, and a count of those that can't."""

    def __init__(self, shards: Sequence[Shard], source: Source, class_field: str | None) -> None:
        self.skipped = 0
        self._shards = shards
        self._source = source
        self._class_field = class_field

    def __iter__(self) -> Iterator[_ReadPair]:
        console = Console(stderr=True)
        hidden = not console.is_terminal
        for shard in track(self._shards, "evaluating", console=console, disable=hidden):
            for pair in read_shard(shard, self._source):
                try:
                    image = open_image(pair.image or b"")
                except RowError:
                    image = None
                if pair.error or image is None or pair.caption is None:
                    self.skipped += 1
                    continue
                name = class_of(pair.metadata, self._class_field)
                yield _ReadPair(image, pair.caption, name, (shard.name, pair.key))


class _Clip:
    """A model that embeds, in batches."""

    def __init__(self, model: str, batch_size: int, device: str) -> None:
        self._device = choose_device(device)
        self._batch_size = batch_size
        named = model.startswith((LOCAL_DIR, HF_HUB))
        self._clip: ClipModel = build_model(model if named else LOCAL_DIR + model)
        self._clip.module.to(self._device).eval()

    @torch.no_grad()
    def images(self, reader: _Reader) -> EmbeddedImages | None:
        """None when the reader gives no pair."""
        preprocess = image_transform_v2(PreprocessCfg(**self._clip.preprocess_cfg), is_train=False)
        features: list[Tensor] = []
        pairs: list[_ReadPair] = []
        stream = iter(reader)
        while batch := list(islice(stream, self._batch_size)):
            pixels = torch.stack([preprocess(pair.image) for pair in batch])  # pyright: ignore
            features.append(self._clip.module.encode_image(pixels.to(self._device), normalize=True))
            pairs += [pair._replace(image=None) for pair in batch]
        if not pairs:
            return None
        return EmbeddedImages(
            _finite(torch.cat(features), "image"),
            [pair.caption for pair in pairs],
            [pair.name for pair in pairs],
            [pair.place for pair in pairs],
            reader.skipped,
        )

    @torch.no_grad()
    def captions(self, captions: list[str]) -> EmbeddedCaptions:
        features = [
            self._clip.module.encode_text(
                self._clip.tokenizer(captions[start : start + self._batch_size]).to(self._device),
                normalize=True,
            )
            for start in range(0, len(captions), self._batch_size)
        ]
        return EmbeddedCaptions(_finite(torch.cat(features), "text"), captions)

    def classes(self, names: list[str], templates: Templates) -> Tensor:
        return open_clip.build_zero_shot_classifier(
            self._clip.module,
            self._clip.tokenizer,
            [spoken(name) for name in names],
            TEMPLATES[templates],
            device=self._device,
        )


def _finite(features: Tensor, what: str) -> Tensor:
    if not torch.isfinite(features).all():
        raise TrainingError(f"the model gives {what} embeddings that are not finite")
    return features.float()
