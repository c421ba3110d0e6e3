"""What to evaluate, and what comes out: the measures put together."""

from collections.abc import Sequence

import torch

from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.formats.base import Format
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import AUTO, Source
from rhocache_schemas.documents import Document
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.evaluation.linear_probe import LinearProbe, linear_probe
from rhocache_trainer.evaluation.measures import (
    Classifier,
    EmbeddedCaptions,
    EmbeddedImages,
    ZeroShot,
    recalls,
    zero_shot,
)
from rhocache_trainer.evaluation.prompts import Templates, check_some


class EvaluationResult(Document):
    """Recalls are shares from 0 to 1, by rank k."""

    model: str
    cache: str | None = None  # that the embeddings are from, when they are not the model's own
    dataset: str
    shards: list[str]
    images: int
    captions: int  # different ones
    skipped: int  # pairs that could not be used
    image_to_text: dict[int, float]
    text_to_image: dict[int, float]
    zero_shot: ZeroShot | None
    templates: Templates | None = None  # of the prompts that zero-shot accuracy is by
    linear_probe: LinearProbe | None = None


class Evaluation:
    """The pairs to evaluate on, and those to train a linear probe on.

    Raises InvalidInput when the options don't go together, and DatasetError when a glob matches no
    shard.
    """

    def __init__(
        self,
        source: Source,
        *,
        kind: str = AUTO,
        class_field: str | None,
        linear_probe: bool,
        probe_shards: str | None,
    ) -> None:
        if linear_probe and class_field is None:
            raise InvalidInput("a linear probe needs classes: say which field has them")
        if probe_shards is not None and not linear_probe:
            raise InvalidInput("probe shards are for a linear probe, which was not asked for")
        self.source = source
        self.class_field = class_field
        self.linear_probe = linear_probe
        self.opened: Format = open_dataset(source, kind)
        self.shards = self.opened.shards
        self.probe_shards: Sequence[Shard] = []
        if probe_shards is not None:
            probed = source.model_copy(update={"shards": probe_shards})
            self.probe_shards = open_dataset(probed, kind).shards
        names = {shard.name for shard in self.shards}
        shared = [shard.name for shard in self.probe_shards if shard.name in names]
        if shared:
            raise InvalidInput(
                f"the linear probe would be tested on {shared[0]}, which it is trained on: choose "
                "shards and probe shards that have none in common"
            )

    def measure(
        self,
        model: str,
        images: EmbeddedImages,
        captions: EmbeddedCaptions,
        *,
        classifier: Classifier | None,
        templates: Templates | None,
        probe_images: EmbeddedImages | None,
        cache: str | None = None,
    ) -> EvaluationResult:
        """Measure retrieval, zero-shot accuracy if there is a classifier, and the linear probe.

        Raises DatasetError when a class field was named but no pair has a class.
        """
        if self.class_field is not None:
            check_some(images.classes, self.source.dataset, self.class_field)
        numbers = {caption: number for number, caption in enumerate(captions.captions)}
        device = images.features.device
        own = torch.tensor([numbers[caption] for caption in images.captions], device=device)
        every = torch.arange(len(numbers), device=device)
        return EvaluationResult(
            model=model,
            cache=cache,
            dataset=self.source.dataset,
            shards=[shard.name for shard in self.shards],
            images=len(images.captions),
            captions=len(numbers),
            skipped=images.skipped,
            image_to_text=recalls(images.features, captions.features, own, every),
            text_to_image=recalls(captions.features, images.features, every, own),
            zero_shot=None if classifier is None else zero_shot(images, classifier),
            templates=None if classifier is None else templates,
            linear_probe=linear_probe(images, probe_images) if self.linear_probe else None,
        )


def choose_device(device: str) -> str:
    """Return the device that ``auto`` stands for: a GPU if there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
