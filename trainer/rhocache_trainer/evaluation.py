"""How good a model is at retrieval and at zero-shot classification."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rhocache_schemas.dataset import Shard, list_shards
from rhocache_schemas.documents import Document, Strict
from rhocache_schemas.errors import DatasetError, RowError, TrainingError
from rhocache_schemas.images import open_image
from rhocache_schemas.reference import LOCAL_DIR
from rhocache_schemas.tar_shard import ShardReader
from rhocache_trainer.model import ClipModel, build_model

RANKS = (1, 5, 10)

Templates = Literal["openai", "simple"]

_TEMPLATES: dict[str, Sequence[Callable[[str], str]]] = {
    "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
    "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
}


class ZeroShot(Strict):
    """Accuracy of naming an image's class by the prompt that is nearest to it."""

    images: int
    classes: list[str]
    accuracy: float
    mean_class_accuracy: float  # every class counts the same, however many images it has


class EvaluationResult(Document):
    """Recalls are shares from 0 to 1, by rank k."""

    model: str
    dataset: str
    shards: list[str]
    images: int
    captions: int  # different ones
    skipped: int  # pairs that could not be read
    image_to_text: dict[int, float]
    text_to_image: dict[int, float]
    zero_shot: ZeroShot | None


def evaluate(
    model: str,
    dataset: str,
    *,
    shards: str | None = None,
    caption_field: str | None = None,
    class_field: str | None = None,
    templates: Templates = "openai",
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

    Raises DatasetError when no pair can be read, and TrainingError when the model gives embeddings
    that are not finite.
    """
    name = model if ":" in model else LOCAL_DIR + model
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    clip = build_model(name)
    clip.module.to(device).eval()
    chosen = list_shards(dataset, shards)
    reader = _Reader(chosen, caption_field, class_field)
    image, captions, classes = _embed_images(clip, reader, batch_size, device)
    if not captions:
        raise DatasetError(f"{dataset} has no pair that can be evaluated")
    texts = sorted(set(captions))
    text = _embed_texts(clip, texts, batch_size, device)
    numbers = {caption: number for number, caption in enumerate(texts)}
    own = torch.tensor([numbers[caption] for caption in captions], device=image.device)
    similarity = image @ text.T
    positive = own[:, None] == torch.arange(len(texts), device=image.device)
    return EvaluationResult(
        model=model,
        dataset=dataset,
        shards=[shard.name for shard in chosen],
        images=len(captions),
        captions=len(texts),
        skipped=reader.skipped,
        image_to_text=recalls(similarity, positive),
        text_to_image=recalls(similarity.T, positive.T),
        zero_shot=_zero_shot(clip, image, classes, _TEMPLATES[templates], device),
    )


def recalls(similarity: Tensor, positive: Tensor) -> dict[int, float]:
    """Share of the queries with a positive item among the k most similar, for k = 1, 5, 10.

    Args:
        similarity: [queries, items].
        positive: bool, the same shape; at least one in each row.
    """
    best = similarity.masked_fill(~positive, -torch.inf).amax(dim=1)
    before = ((similarity >= best[:, None]) & ~positive).sum(dim=1)
    return {k: float((before < k).double().mean()) for k in RANKS}


class _Reader:
    """The pairs that can be used, and a count of those that can't."""

    def __init__(
        self, shards: Sequence[Shard], caption_field: str | None, class_field: str | None
    ) -> None:
        self.skipped = 0
        self._shards = shards
        self._caption_field = caption_field
        self._class_field = class_field

    def __iter__(self) -> Iterator[tuple[Image.Image, str, str | None]]:
        console = Console(stderr=True)
        hidden = not console.is_terminal
        for shard in track(self._shards, "evaluating", console=console, disable=hidden):
            for pair in ShardReader(shard, self._caption_field):
                try:
                    image = open_image(pair.image or b"")
                except RowError:
                    image = None
                if pair.error or image is None or pair.caption is None:
                    self.skipped += 1
                    continue
                yield image, pair.caption, self._class(pair.metadata)

    def _class(self, metadata: bytes | None) -> str | None:
        if self._class_field is None:
            return None
        try:
            fields = json.loads(metadata or b"null")
        except ValueError:
            return None
        value = fields.get(self._class_field) if isinstance(fields, dict) else None
        return value if isinstance(value, str) and value else None


@torch.no_grad()
def _embed_images(
    clip: ClipModel, reader: _Reader, batch_size: int, device: str
) -> tuple[Tensor, list[str], list[str | None]]:
    preprocess = image_transform_v2(PreprocessCfg(**clip.preprocess_cfg), is_train=False)
    features: list[Tensor] = []
    captions: list[str] = []
    classes: list[str | None] = []
    pairs = iter(reader)
    while batch := list(islice(pairs, batch_size)):
        pixels = torch.stack([preprocess(image) for image, _, _ in batch])  # pyright: ignore
        features.append(clip.module.encode_image(pixels.to(device), normalize=True))
        captions += [caption for _, caption, _ in batch]
        classes += [name for _, _, name in batch]
    return _finite(torch.cat(features) if features else torch.empty(0), "image"), captions, classes


@torch.no_grad()
def _embed_texts(clip: ClipModel, texts: list[str], batch_size: int, device: str) -> Tensor:
    features = [
        clip.module.encode_text(
            clip.tokenizer(texts[start : start + batch_size]).to(device), normalize=True
        )
        for start in range(0, len(texts), batch_size)
    ]
    return _finite(torch.cat(features), "text")


def _zero_shot(
    clip: ClipModel,
    image: Tensor,
    classes: list[str | None],
    templates: Sequence[Callable[[str], str]],
    device: str,
) -> ZeroShot | None:
    labelled = [row for row, name in enumerate(classes) if name is not None]
    names = sorted({name for name in classes if name is not None})
    if not names:
        return None
    prompts = [name.replace("_", " ") for name in names]
    weights = open_clip.build_zero_shot_classifier(
        clip.module, clip.tokenizer, prompts, templates, device=device
    )
    numbers = {name: number for number, name in enumerate(names)}
    truth = torch.tensor([numbers[str(classes[row])] for row in labelled], device=image.device)
    correct = ((image[labelled] @ weights).argmax(dim=1) == truth).double()
    by_class = [float(correct[truth == number].mean()) for number in range(len(names))]
    return ZeroShot(
        images=len(labelled),
        classes=names,
        accuracy=float(correct.mean()),
        mean_class_accuracy=sum(by_class) / len(names),
    )


def _finite(features: Tensor, what: str) -> Tensor:
    if not torch.isfinite(features).all():
        raise TrainingError(f"the model gives {what} embeddings that are not finite")
    return features.float()
