"""Distillation from a reference cache, beside open_clip's own loss."""

from typing import Annotated, ClassVar, Literal

from open_clip.loss import ClipLoss
from pydantic import Field

from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.distillation import Distillation, DistillationWeights
from rhocache_trainer.loss.references import References
from rhocache_trainer.objectives.base import (
    Features,
    Objective,
    ObjectiveConfig,
    Output,
    at_logit_scale,
    reference_of,
    references_of,
)


class DistillConfig(ObjectiveConfig, DistillationWeights):
    needs_cache: ClassVar[bool] = True

    name: Literal["distill"] = "distill"
    clip_weight: Annotated[float, Field(ge=0, description="of open_clip's own loss")] = 1.0

    def build(self, pairs: PairSource) -> "Distill":
        return Distill(self, references_of(pairs))


class Distill(Objective):
    """The weighted sum of both losses, at the model's learnable logit scale."""

    def __init__(self, config: DistillConfig, references: References) -> None:
        super().__init__()
        ranks = Ranks()
        self.references = references
        self._clip_weight = config.clip_weight
        self._clip_loss = ClipLoss(
            local_loss=True, gather_with_grad=True, rank=ranks.rank, world_size=ranks.world_size
        )
        self._distillation = Distillation(config, references)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:  # noqa: ARG002
        scale = features["logit_scale"]
        target = features["image_features"], features["text_features"]
        loss = self._distillation(target, reference_of(batch), (scale, scale))
        if self._clip_weight:
            loss = loss + self._clip_weight * self._clip_loss(**features)
        return at_logit_scale(loss, scale)
