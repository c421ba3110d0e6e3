"""Several references as one: how much each of them counts, at which temperature, and when."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.settings import Share

Weights = tuple[Annotated[float, Field(ge=0)], ...]


class Stage(Strict):
    """The weights at one point of the training."""

    at: Annotated[Share, Field(description="share of all steps that are done")]
    weights: Weights


class ReferencesConfig(Strict):
    """How the references of several caches are combined. What is a list has an entry for each."""

    combine: Annotated[
        Literal["mean", "min"],
        Field(description="of the references' similarities of an image and a text"),
    ] = "mean"
    weights: Annotated[
        Weights | None, Field(description="in the mean, and of distillation; null: equal ones")
    ] = None
    temperatures: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | Literal["own"] | None,
        Field(
            description="that the references' similarities are divided by before they are added "
            "up; own: those that they were trained at; null: cosines are added up as they are"
        ),
    ] = None
    schedule: Annotated[
        tuple[Stage, ...],
        Field(description="weights that move, linearly from each {at, weights} to the next"),
    ] = ()

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.weights is not None and self.schedule:
            raise ValueError("weights stay and those of a schedule move; leave out one of the two")
        if self.combine == "min" and (self.stages or self.temperatures is not None):
            raise ValueError(
                "combine min takes the smallest of the cosines, whatever the weights and "
                "temperatures; leave them out, or combine by the mean"
            )
        if any(sum(weights) == 0 for weights in self.stages):
            raise ValueError("weights are all 0; at least one must be larger")
        times = [stage.at for stage in self.schedule]
        if late := next((pair for pair in pairwise(times) if pair[0] >= pair[1]), None):
            raise ValueError(
                f"schedule has at: {late[1]:g} after at: {late[0]:g}; each must be later than the "
                "one before"
            )
        return self

    @property
    def stages(self) -> list[Weights]:
        """All weights that there are."""
        given = [] if self.weights is None else [self.weights]
        return [*given, *(stage.weights for stage in self.schedule)]

    def fault(self, count: int) -> str | None:
        """Say what is wrong with it for so many references, None where it fits."""
        several = isinstance(self.temperatures, tuple)
        told = [("weights", len(weights)) for weights in self.stages]
        told += [("temperatures", len(self.temperatures or ()))] if several else []
        for name, given in told:
            if given != count:
                return f"{given} {name} for {count} caches; give one for each, in their order"
        return None


class References:
    """The references of one or several caches, whose embeddings of a pair lie one after another.

    With weights w_k that sum to 1, cosines r^k_ij of reference k, and its temperature τ_k, the
    similarities that steer are

        r_ij = Σ_k w_k r^k_ij                                           without temperatures
        r_ij = Σ_k w_k (τ0/τ_k) r^k_ij     with 1/τ0 = Σ_k w_k/τ_k      with them
        r_ij = min_k r^k_ij                                             combined by the minimum

    so that r_ij/τ0 is the weighted mean of the references' logits, as of an ensemble in which each
    has a logit scale of its own (MobileCLIP2, Faghri et al. 2025). Both means are cosines: of unit
    vectors, each reference's embedding times √c_k one after another, where the c_k sum to 1.
    """

    def __init__(
        self, manifests: Sequence[Manifest], config: ReferencesConfig | None = None
    ) -> None:
        """Raises InvalidInput where the settings are for another number of references."""
        config = config or ReferencesConfig()
        if fault := config.fault(len(manifests)):
            raise InvalidInput(f"references: {fault}")
        self._config = config
        self._widths = [manifest.dimension for manifest in manifests]
        self._biases = [manifest.logit_bias for manifest in manifests]
        self.manifests = manifests
        self.done = 0.0  # share of the training's steps, by which a schedule goes

    def __len__(self) -> int:
        return len(self._widths)

    @property
    def scales(self) -> list[float]:
        """The references' logit scales. Raises InvalidInput where a cache does not say its own."""
        if isinstance(self._config.temperatures, tuple):
            return [1 / each for each in self._config.temperatures]
        return [manifest.known_logit_scale for manifest in self.manifests]

    @property
    def weights(self) -> list[float]:
        """w_k, at this point of the schedule."""
        config = self._config
        if config.weights is not None:
            return _normalized(config.weights)
        stages = [(stage.at, _normalized(stage.weights)) for stage in config.schedule]
        if not stages:
            return _normalized([1.0] * len(self))
        for (start, before), (end, after) in pairwise(stages):
            if start <= self.done < end:
                part = (self.done - start) / (end - start)
                return [a + part * (b - a) for a, b in zip(before, after, strict=True)]
        return stages[0][1] if self.done < stages[0][0] else stages[-1][1]

    @property
    def scale(self) -> float:
        """The logit scale of the references as one: Σ_k w_k times that of each, 1/τ0."""
        return _dot(self.weights, self.scales)

    @property
    def bias(self) -> float | None:
        """The logit bias of the references as one, None where one of them has none."""
        biases = [bias for bias in self._biases if bias is not None]
        return _dot(self.weights, biases) if len(biases) == len(self) else None

    def apart(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Return each reference's [B, d_k] of [B, Σ d_k], after which others may follow."""
        own = embeddings[:, : sum(self._widths)]
        return own.split(self._widths, dim=1) if len(self) > 1 else (own,)

    def as_one(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Return unit vectors [B, d'], for a loss that is steered by their cosines.

        They are one where similarities are added up, and one of each reference where the smallest
        counts.
        """
        parts = self.apart(embeddings)
        if len(self) == 1 or self._config.combine == "min":
            return parts
        shares = self.weights
        if self._config.temperatures is not None:
            shares = _normalized([w * s for w, s in zip(shares, self.scales, strict=True)])
        scaled = [math.sqrt(c) * part for c, part in zip(shares, parts, strict=True)]
        return (torch.cat(scaled, dim=1),)

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """Return r_ij, [B, B], of embeddings [B, Σ d_k]."""
        each = zip(self.as_one(image), self.as_one(text), strict=True)
        return torch.stack([images @ texts.T for images, texts in each]).amin(0)


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def _normalized(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]
