"""Distillation from cached embeddings."""

from typing import Annotated

import torch
from open_clip.loss import gather_features
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.references import References


class DistillationWeights(Strict):
    softmax_weight: Annotated[
        float, Field(ge=0, description="of the cross-entropy to the reference's softmax")
    ] = 1.0
    feature_weight: Annotated[
        float,
        Field(ge=0, description="of the squared distance to its features; wants equal dimensions"),
    ] = 0.0


class Distillation:
    """Cross-entropy to the reference's softmax over the batch, both ways, and feature mimicry.

    CLIP-KD (Yang et al. 2024, section 3) calls them CRD and FD. Of several references both are the
    weighted mean over them, each with a logit scale of its own (MobileCLIP2, Faghri et al. 2025).
    """

    def __init__(self, weights: DistillationWeights, references: References) -> None:
        self._softmax_weight = weights.softmax_weight
        self._feature_weight = weights.feature_weight
        self._references = references
        self._ranks = Ranks()

    def __call__(
        self,
        features: tuple[Tensor, Tensor],
        reference: tuple[Tensor, Tensor],
        scales: tuple[Tensor, Tensor],
        *,
        times_tau: bool = False,
    ) -> Tensor:
        """Return the loss of this rank's pairs, 0-dim.

        Args:
            features: of images and texts, unit vectors, [B, d] each.
            reference: the references' of the same pairs, one after another, [B, Σ d'].
            scales: the target's inverse temperatures, of images and of texts as anchors, each
                0-dim or [B].
            times_tau: whether to multiply what an anchor adds by its temperature.

        Raises InvalidInput where features are compared and d is not d'.
        """
        image, text = features
        with torch.autocast(image.device.type, enabled=False):
            target = image.float(), text.float()
            loss = torch.zeros(2, len(image), device=image.device)  # of images, of texts as anchors
            if self._softmax_weight:
                loss = loss + self._softmax_weight / 2 * self._softmax(target, scales, reference)
            if self._feature_weight:
                loss = loss + self._feature_weight * self._mimicry(target, reference)
            if times_tau:
                loss = loss / torch.stack([scale.expand(len(image)) for scale in scales])
        return loss.mean(1).sum()

    def _softmax(
        self,
        target: tuple[Tensor, Tensor],
        scales: tuple[Tensor, Tensor],
        reference: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Of this rank's pairs against those of all, [2, B]."""
        rank, world_size = self._ranks.rank, self._ranks.world_size
        every = target
        if world_size > 1:
            every = gather_features(
                *target, local_loss=True, gather_with_grad=True, rank=rank, world_size=world_size
            )
        sizes = [len(target[0])] * world_size
        taught = self._ranks.gather_rows([each.float() for each in reference], sizes)
        losses = [
            cross_entropy(
                scales[side][..., None] * target[side] @ every[1 - side].T,
                self._shares(reference[side], taught[1 - side]),
                reduction="none",
            )
            for side in (0, 1)
        ]
        return torch.stack(losses)

    def _shares(self, anchors: Tensor, others: Tensor) -> Tensor:
        """The mean of the references' softmaxes: a cross-entropy to it is the mean of those."""
        references = self._references
        each = zip(
            references.weights,
            references.scales,
            references.apart(anchors),
            references.apart(others),
            strict=True,
        )
        softmaxes = [w * torch.softmax(scale * a @ b.T, dim=1) for w, scale, a, b in each]
        return torch.stack(softmaxes).sum(0)

    def _mimicry(self, target: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over the references of squared distances to their features, [2, B]."""
        references = self._references
        parts = zip(*map(references.apart, reference), strict=True)
        distances = [
            weight * _distances(target, theirs)
            for weight, theirs in zip(references.weights, parts, strict=True)
        ]
        return torch.stack(distances).sum(0)


def _distances(target: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distances of unit vectors, [2, B]; the reference's were rounded to half precision."""
    widths = target[0].shape[1], reference[0].shape[1]
    if widths[0] != widths[1]:
        raise InvalidInput(
            f"feature_weight compares features of {widths[0]} numbers with the reference's "
            f"{widths[1]}; use a model with embed_dim {widths[1]}, or softmax_weight alone"
        )
    distances = [
        (ours - normalize(theirs.float(), dim=1)).square().sum(1)
        for ours, theirs in zip(target, reference, strict=True)
    ]
    return torch.stack(distances)
