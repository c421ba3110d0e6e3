"""What a run minimises: from the model's features and a batch to a LossOutput."""

from typing import Any

from open_clip import ClipLoss
from torch import Tensor, nn

from rhocache_trainer.config import ClipObjective, DRRhoObjective, GlobalObjective
from rhocache_trainer.dataset import Batch
from rhocache_trainer.loss import DRRhoClipLoss, GlobalContrastiveLoss, LossOutput
from rhocache_trainer.schedule import cosine_gamma

Features = dict[str, Tensor]  # image_features, text_features [B, d], logit_scale [, logit_bias]


class Clip(nn.Module):
    """open_clip's symmetric cross-entropy; the temperature is the model's own logit scale."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = ClipLoss()

    def start_epoch(self, epoch: int, epochs: int) -> None:
        pass

    def forward(self, features: Features, batch: Batch) -> LossOutput:  # noqa: ARG002
        loss = self.loss(**features)
        return LossOutput(loss, loss.detach(), 1 / features["logit_scale"].detach())


class ContrastiveRisk(nn.Module):
    """The global contrastive loss, or with a cache's rows the DRRHO risk."""

    def __init__(self, config: GlobalObjective | DRRhoObjective, n: int) -> None:
        super().__init__()
        self._config = config
        arguments: dict[str, Any] = {
            "tau": config.tau,
            "temperature": config.temperature,
            "rho": config.rho,
            "gamma": config.gamma,
            "epsilon": config.epsilon,
        }
        steered = isinstance(config, DRRhoObjective)
        self.loss = (DRRhoClipLoss if steered else GlobalContrastiveLoss)(n, **arguments)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        if self._config.gamma_schedule == "cosine":
            self.loss.gamma = cosine_gamma(epoch, epochs // 2, self._config.gamma)

    def forward(self, features: Features, batch: Batch) -> LossOutput:
        image, text = features["image_features"], features["text_features"]
        if isinstance(self.loss, GlobalContrastiveLoss):
            return self.loss(image, text, batch.index)
        return self.loss(image, text, batch.reference_image, batch.reference_text, batch.index)


def build_objective(
    config: ClipObjective | GlobalObjective | DRRhoObjective, n: int
) -> Clip | ContrastiveRisk:
    """``n`` is the number of pairs that a batch's ``index`` runs over."""
    return Clip() if isinstance(config, ClipObjective) else ContrastiveRisk(config, n)
