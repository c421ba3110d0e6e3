"""The contrastive risks, as objectives of the training loop."""

from typing import Any

from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.loss.contrastive import DRRhoClipLoss, GlobalContrastiveLoss, LossOutput
from rhocache_trainer.loss.temperature import TemperatureMode
from rhocache_trainer.objectives.base import Features, Objective, reference_of
from rhocache_trainer.optim import cosine_gamma
from rhocache_trainer.training.config import DRRhoDistillObjective, DRRhoObjective, GlobalObjective

# FastCLIP (Wei et al. 2024, table 1): temperature, and whether τ is a factor of the risk.
_FASTCLIP: dict[str, tuple[TemperatureMode, bool]] = {
    "v0": ("learnable", False),
    "v1": ("constant", True),
    "v2": ("individual", True),
    "v3": ("learnable", True),
}


class ContrastiveRisk(Objective):
    """The global contrastive loss, or with a cache's rows the DRRHO risk, of all ranks' pairs."""

    own_temperature = True

    def __init__(
        self, config: GlobalObjective | DRRhoObjective | DRRhoDistillObjective, n: int
    ) -> None:
        super().__init__()
        self._config = config
        temperature, scaled = config.temperature, True
        if isinstance(config, GlobalObjective) and config.version:
            temperature, scaled = _FASTCLIP[config.version]
        arguments: dict[str, Any] = {
            "tau": config.tau,
            "temperature": temperature,
            "rho": config.rho,
            "gamma": config.gamma,
            "epsilon": config.epsilon,
            "scaled": scaled,
            "averaged": True,
        }
        steered = not isinstance(config, GlobalObjective)
        self.loss = (DRRhoClipLoss if steered else GlobalContrastiveLoss)(n, **arguments)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        if self._config.gamma_schedule == "cosine":
            self.loss.gamma = cosine_gamma(epoch, epochs // 2, self._config.gamma)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:
        target = features["image_features"], features["text_features"]
        if isinstance(self.loss, GlobalContrastiveLoss):
            return self.loss(*target, batch.index, steering=steering)
        return self.loss(*target, *reference_of(batch), batch.index, steering=steering)
