"""The contrastive risks: without a reference, steered by one, and beside distillation from it."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.loss.contrastive import DRRhoClipLoss, GlobalContrastiveLoss
from rhocache_trainer.loss.distillation import Distillation, DistillationWeights
from rhocache_trainer.loss.moving_average import cosine_gamma
from rhocache_trainer.loss.references import References
from rhocache_trainer.loss.temperature import TemperatureMode
from rhocache_trainer.objectives.base import (
    Features,
    Objective,
    ObjectiveConfig,
    Output,
    reference_of,
    references_of,
)

# FastCLIP (Wei et al. 2024, table 1): temperature, and whether τ is a factor of the risk.
_FASTCLIP: dict[str, tuple[TemperatureMode, bool]] = {
    "v0": ("learnable", False),
    "v1": ("constant", True),
    "v2": ("individual", True),
    "v3": ("learnable", True),
}


class ContrastiveConfig(ObjectiveConfig):
    own_temperature: ClassVar[bool] = True

    temperature: Annotated[
        TemperatureMode,
        Field(description="separate: one for images, one for texts; individual: for each pair"),
    ] = "learnable"
    tau: Annotated[float, Field(ge=0.01, description="temperature to begin with")] = 0.07
    tau_lr: Annotated[float, Field(gt=0, description="largest learning rate of τ")] = 1e-4
    rho: Annotated[
        float | None,
        Field(ge=0, description="constraint on the divergence; null: log(B−1)/3, B pairs a batch"),
    ] = None
    gamma: Annotated[
        float, Field(gt=0, le=1, description="weight of a new estimate, once the schedule is over")
    ] = 0.2
    gamma_schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="cosine: from 1 in the first epoch down to gamma at half of them"),
    ] = "cosine"
    epsilon: Annotated[float, Field(ge=0)] = 1e-14
    sharded: Annotated[
        bool, Field(description="each process holds u of its share of the pairs, not of all")
    ] = False

    @property
    def own_lr(self) -> float:
        return self.tau_lr

    def loss_arguments(self) -> dict[str, Any]:
        return {
            "tau": self.tau,
            "temperature": self.temperature,
            "rho": self.rho,
            "gamma": self.gamma,
            "epsilon": self.epsilon,
            "averaged": True,
            "sharded": self.sharded,
        }


class GlobalConfig(ContrastiveConfig):
    """The global contrastive loss, in FastCLIP's versions (Wei et al. 2024, table 1)."""

    name: Literal["global"] = "global"
    version: Annotated[
        Literal["v0", "v1", "v2", "v3"] | None,
        Field(
            description="v0: learnable temperature, no factor τ; v1: constant; v2: individual; v3: "
            "learnable; in place of temperature"
        ),
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.version and "temperature" in self.model_fields_set:
            raise ValueError(f"version {self.version} says what the temperature is; leave it out")
        return self

    def build(self, pairs: PairSource) -> "ContrastiveRisk":
        arguments = self.loss_arguments()
        if self.version:
            arguments["temperature"], arguments["scaled"] = _FASTCLIP[self.version]
        return ContrastiveRisk(self, GlobalContrastiveLoss(pairs.n, **arguments))


class DRRhoConfig(ContrastiveConfig):
    """The DRRHO contrastive risk, steered by a reference cache."""

    needs_cache: ClassVar[bool] = True

    name: Literal["drrho"] = "drrho"

    def build(self, pairs: PairSource) -> "ContrastiveRisk":
        loss = DRRhoClipLoss(pairs.n, **self.loss_arguments())
        return ContrastiveRisk(self, loss, references_of(pairs))


class DRRhoDistillConfig(ContrastiveConfig, DistillationWeights):
    """The DRRHO contrastive risk, and distillation from the same cache."""

    needs_cache: ClassVar[bool] = True

    name: Literal["drrho+distill"] = "drrho+distill"

    def build(self, pairs: PairSource) -> "ContrastiveRisk":
        loss = DRRhoClipLoss(pairs.n, **self.loss_arguments())
        return DistilledRisk(self, loss, references_of(pairs))


class ContrastiveRisk(Objective):
    """The global contrastive loss, or with a cache's rows the DRRHO risk, of all ranks' pairs."""

    def __init__(
        self,
        config: ContrastiveConfig,
        loss: GlobalContrastiveLoss | DRRhoClipLoss,
        references: References | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self.loss = loss
        self.references = references

    def start_epoch(self, epoch: int, epochs: int) -> None:
        if self._config.gamma_schedule == "cosine":
            self.loss.gamma = cosine_gamma(epoch, epochs // 2, self._config.gamma)

    @torch.no_grad()
    def deltas(self) -> tuple[range, dict[str, Tensor]] | None:
        """τ log u_i, with images and texts as anchors: what the DRRHO risk is a mean of."""
        if isinstance(self.loss, GlobalContrastiveLoss):
            return None
        held = self.loss.image_average.held
        tables = [each.rows() for each in (self.loss.image_average, self.loss.text_average)]
        index = torch.arange(held.start, held.stop, device=tables[0]["log_u"].device)
        taus = self.loss.temperature(index)
        image, text = (
            (tau * rows["log_u"]).where(rows["seen"], torch.nan)
            for tau, rows in zip(taus, tables, strict=True)
        )
        return held, {"image_delta": image, "text_delta": text, "delta": (image + text) / 2}

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:
        target = features["image_features"], features["text_features"]
        if self.references is None:
            out = self.loss(*target, batch.index, steering=steering)
        else:
            reference = map(self.references.as_one, reference_of(batch))
            out = self.loss(*target, *reference, batch.index, steering=steering)
        return Output(
            out.loss,
            out.objective,
            out.tau,
            out.tau_text,
            gamma=self.loss.gamma,
            steering=out.steering,
        )


class DistilledRisk(ContrastiveRisk):
    """The DRRHO risk, and distillation at its temperatures, each anchor's multiplied by its own τ.

    The risk is τ times a logarithm, so that its gradient by the features does not grow with 1/τ as
    that of a cross-entropy does: without τ as a factor, distillation would be all that is learned.
    Wei et al. 2025 combine the two so, in their code with a weight of 1. τ itself is learned from
    the risk alone, so that ρ keeps its meaning. Texts as anchors have a τ of their own where it is
    ``separate``, and each pair has where it is ``individual``.
    """

    def __init__(
        self, config: DRRhoDistillConfig, loss: DRRhoClipLoss, references: References
    ) -> None:
        super().__init__(config, loss, references)
        self._distillation = Distillation(config, references)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:
        out = super().forward(features, batch, steering=steering)
        image, text = (1 / tau.detach() for tau in self.loss.temperature(batch.index))
        target = features["image_features"], features["text_features"]
        taught = self._distillation(target, reference_of(batch), (image, text), times_tau=True)
        return replace(out, loss=out.loss + taught, objective=out.objective + taught.detach())
