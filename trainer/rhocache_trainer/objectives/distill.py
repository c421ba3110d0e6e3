"""Distillation from cached embeddings."""

import torch
from open_clip.loss import gather_features
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.config import DistillObjective, DRRhoDistillObjective
from rhocache_trainer.dataset import Batch
from rhocache_trainer.loss import LossOutput
from rhocache_trainer.objectives.base import Features, Objective, reference_of
from rhocache_trainer.objectives.clip import Clip, output
from rhocache_trainer.objectives.risk import ContrastiveRisk
from rhocache_trainer.ranks import Ranks


class _Distillation:
    """Cross-entropy to the reference's softmax over the batch, both ways, and feature mimicry.

    CLIP-KD (Yang et al. 2024, section 3) calls them CRD and FD.
    """

    def __init__(
        self, config: DistillObjective | DRRhoDistillObjective, reference_scale: float
    ) -> None:
        self._softmax_weight = config.softmax_weight
        self._feature_weight = config.feature_weight
        self._reference_scale = reference_scale
        self._ranks = Ranks()

    def __call__(
        self, image: Tensor, text: Tensor, scales: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        """``scales`` are the target's inverse temperatures, of images and of texts as anchors, each
        0-dim or [B]; gives a 0-dim tensor."""
        reference = reference_of(batch)
        loss = image.new_zeros((), dtype=torch.float32)
        with torch.autocast(image.device.type, enabled=False):
            image, text = image.float(), text.float()
            if self._softmax_weight:
                loss = loss + self._softmax_weight * self._softmax((image, text), scales, reference)
            if self._feature_weight:
                loss = loss + self._feature_weight * _mimicry((image, text), reference)
        return loss

    def _softmax(
        self,
        target: tuple[Tensor, Tensor],
        scales: tuple[Tensor, Tensor],
        reference: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Of this rank's pairs against those of all."""
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
                torch.softmax(self._reference_scale * reference[side] @ taught[1 - side].T, dim=1),
            )
            for side in (0, 1)
        ]
        return (losses[0] + losses[1]) / 2


def _mimicry(target: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
    widths = target[0].shape[1], reference[0].shape[1]
    if widths[0] != widths[1]:
        raise InvalidInput(
            f"feature_weight compares features of {widths[0]} numbers with the reference's "
            f"{widths[1]}; use a model with embed_dim {widths[1]}, or softmax_weight alone"
        )
    # Squared distances of unit vectors; the reference's were rounded to half precision.
    return sum(
        (
            mse_loss(ours, normalize(theirs.float(), dim=1), reduction="sum") / len(ours)
            for ours, theirs in zip(target, reference, strict=True)
        ),
        start=target[0].new_zeros(()),
    )


class Distill(Objective):
    """open_clip's own loss, and distillation."""

    def __init__(self, config: DistillObjective, reference_scale: float) -> None:
        super().__init__()
        self._clip_weight = config.clip_weight
        self._clip = Clip()
        self._distillation = _Distillation(config, reference_scale)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:  # noqa: ARG002
        scale = features["logit_scale"]
        loss = self._distillation(
            features["image_features"], features["text_features"], (scale, scale), batch
        )
        if self._clip_weight:
            loss = loss + self._clip_weight * self._clip(features, batch).loss
        return output(loss, scale)


class DRRhoDistill(ContrastiveRisk):
    """The DRRHO risk, and distillation at the risk's temperatures: τ1 of images, τ2 of texts."""

    def __init__(self, config: DRRhoDistillObjective, n: int, reference_scale: float) -> None:
        super().__init__(config, n)
        self._distillation = _Distillation(config, reference_scale)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:
        out = super().forward(features, batch, steering=steering)
        image, text = (tau.detach() for tau in self.loss.temperature(batch.index))
        added = self._distillation(
            features["image_features"], features["text_features"], (1 / image, 1 / text), batch
        )
        return out.plus(added)
