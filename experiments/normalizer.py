"""A network in place of the averages u: NeuCLIP's normaliser, under DRRHO; an objective to import.

NeuCLIP (Wei et al. 2025, arXiv 2511.08417) writes log g = min_α exp(log g − α) + α − 1 and has a
small network predict each anchor's α from its embedding, trained beside the model. The exponents
of DRRHO are d_ij = (e_ij − e_ii) / τ with e the target's less the reference's cosine, so that the
logarithm of their mean over j is, but for e_ii, a log-sum-exp of products with the embeddings of
all j. The network is the same with m learned prototypes in their place, for target and reference.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from rhocache_trainer import TrainConfig
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.objectives import Features, Objective, ObjectiveConfig, Output
from rhocache_trainer.objectives.base import reference_of
from rhocache_trainer.settings import Positive

LARGEST = 3.0  # of log g − α: one anchor's weight is e³ at most


class NormalizedConfig(ObjectiveConfig):
    needs_cache: ClassVar[bool] = True
    own_temperature: ClassVar[bool] = True

    name: Literal["drrho-normalizer"] = "drrho-normalizer"
    tau: Annotated[float, Field(ge=0.01)] = 0.07
    prototypes: Positive = 1024
    inner_steps: Positive = 4
    inner_lr: Annotated[float, Field(gt=0)] = 1e-2

    def build(self, pairs: PairSource) -> "NormalizedRisk":  # noqa: ARG002
        return NormalizedRisk(self)


class Normalizer(nn.Module):
    """α of anchors; its prototypes begin as the first batch's negatives, repeated with noise."""

    def __init__(self, target: Tensor, reference: Tensor, count: int) -> None:
        super().__init__()
        times = math.ceil(count / len(target))
        self.target = nn.Parameter(_spread(target, times)[:count])
        self.reference = nn.Parameter(_spread(reference, times)[:count])

    def forward(self, target: Tensor, reference: Tensor, own: Tensor, tau: float) -> Tensor:
        residual = target @ normalize(self.target, dim=1).T
        residual = residual - reference @ normalize(self.reference, dim=1).T
        return (residual / tau).logsumexp(1) - math.log(residual.shape[1]) - own / tau


def _spread(features: Tensor, times: int) -> Tensor:
    copies = features.repeat(times, 1)
    return copies + 0.01 * torch.randn_like(copies)


class NormalizedRisk(Objective):
    def __init__(self, config: NormalizedConfig) -> None:
        super().__init__()
        self._config = config
        self._sides: list[tuple[Normalizer, torch.optim.Optimizer]] = []

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:  # noqa: ARG002
        tau = self._config.tau
        image, text = features["image_features"].float(), features["text_features"].float()
        reference = tuple(part.float() for part in reference_of(batch))
        residual = image @ text.T - reference[0] @ reference[1].T
        own = residual.diagonal()
        sides = (
            (residual, image, reference[0], text, reference[1]),
            (residual.T, text, reference[1], image, reference[0]),
        )
        if not self._sides:
            for _, _, _, other, others_reference in sides:
                made = Normalizer(other.detach(), others_reference, self._config.prototypes)
                adam = torch.optim.Adam(made.parameters(), lr=self._config.inner_lr)
                self._sides.append((made, adam))
        losses: list[Tensor] = []
        risks: list[Tensor] = []
        for (e, anchors, anchors_reference, _, _), (network, adam) in zip(
            sides, self._sides, strict=True
        ):
            log_g = _log_mean_of_others((e - own[:, None]) / tau)
            given = anchors.detach(), anchors_reference, own.detach(), tau
            alpha = self._fit(network, adam, given, log_g.detach())
            bound = (log_g - alpha).clamp(max=LARGEST).exp()
            losses.append(tau * bound.mean())  # whose gradient is that of the risk below
            risks.append(tau * (bound.detach() + alpha - 1).mean())
        constant = torch.tensor(tau)
        return Output(losses[0] + losses[1], risks[0] + risks[1], constant, constant)

    def _fit(
        self,
        network: Normalizer,
        adam: torch.optim.Optimizer,
        given: tuple[Tensor, Tensor, Tensor, float],
        log_g: Tensor,
    ) -> Tensor:
        if self.training and torch.is_grad_enabled():
            for _ in range(self._config.inner_steps):
                alpha = network(*given)
                adam.zero_grad()
                ((log_g - alpha).clamp(max=LARGEST).exp() + alpha).mean().backward()
                adam.step()
        with torch.no_grad():
            return network(*given)


def _log_mean_of_others(exponents: Tensor) -> Tensor:
    count = len(exponents)
    others = exponents.masked_fill(torch.eye(count, dtype=torch.bool), -math.inf)
    return others.logsumexp(1) - math.log(count - 1)


TrainConfig.model_rebuild(force=True)  # which has listed the objectives before this one was there
