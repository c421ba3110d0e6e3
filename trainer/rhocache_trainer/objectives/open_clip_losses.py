"""open_clip's own losses, whose temperature is the model's logit scale."""

from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.contrastive import LossOutput
from rhocache_trainer.objectives.base import Features, Objective


class Clip(Objective):
    """The symmetric cross-entropy over all ranks' pairs."""

    def __init__(self) -> None:
        super().__init__()
        ranks = Ranks()
        self.loss = ClipLoss(
            local_loss=True, gather_with_grad=True, rank=ranks.rank, world_size=ranks.world_size
        )

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:  # noqa: ARG002
        return output(self.loss(**features), features["logit_scale"])


class Siglip(Objective):
    """The sigmoid loss over all ranks' pairs (Zhai et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        ranks = Ranks()
        self.loss = SigLipLoss(rank=ranks.rank, world_size=ranks.world_size)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:  # noqa: ARG002
        return output(self.loss(**features), features["logit_scale"])


def output(loss: Tensor, logit_scale: Tensor) -> LossOutput:
    tau = 1 / logit_scale.detach()
    return LossOutput(loss, loss.detach(), tau, tau)
