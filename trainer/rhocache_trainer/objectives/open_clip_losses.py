"""open_clip's own losses, of all ranks' pairs."""

from typing import ClassVar, Literal

from open_clip.loss import ClipLoss, SigLipLoss

from rhocache_trainer.data.join import PairSource
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.objectives.base import ObjectiveConfig, OpenClipLoss


class ClipConfig(ObjectiveConfig):
    """The symmetric cross-entropy, with the model's learnable logit scale."""

    name: Literal["clip"] = "clip"

    def build(self, pairs: PairSource) -> OpenClipLoss:  # noqa: ARG002
        ranks = Ranks()
        return OpenClipLoss(
            ClipLoss(
                local_loss=True, gather_with_grad=True, rank=ranks.rank, world_size=ranks.world_size
            )
        )


class SiglipConfig(ObjectiveConfig):
    """The sigmoid loss (Zhai et al. 2023)."""

    needs_logit_bias: ClassVar[bool] = True

    name: Literal["siglip"] = "siglip"

    def build(self, pairs: PairSource) -> OpenClipLoss:  # noqa: ARG002
        ranks = Ranks()
        return OpenClipLoss(SigLipLoss(rank=ranks.rank, world_size=ranks.world_size))
