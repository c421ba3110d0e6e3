"""Distillation from cached embeddings."""

import torch
from open_clip.loss import gather_features
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.contrastive import LossOutput
from rhocache_trainer.objectives.base import Features, Objective, reference_of
from rhocache_trainer.objectives.contrastive import ContrastiveRisk
from rhocache_trainer.objectives.open_clip_losses import Clip, output
from rhocache_trainer.training.config import DistillObjective, DRRhoDistillObjective


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
        self,
        image: Tensor,
        text: Tensor,
        scales: tuple[Tensor, Tensor],
        batch: Batch,
        *,
        times_tau: bool = False,
    ) -> Tensor:
        """Give a 0-dim tensor.

        ``scales`` are the target's inverse temperatures, of images and of texts as anchors, each
        0-dim or [B]. ``times_tau`` multiplies what an anchor adds by its temperature.
        """
        reference = reference_of(batch)
        with torch.autocast(image.device.type, enabled=False):
            target = image.float(), text.float()
            loss = torch.zeros(2, len(image), device=image.device)  # of images, of texts as anchors
            if self._softmax_weight:
                loss = loss + self._softmax_weight / 2 * self._softmax(target, scales, reference)
            if self._feature_weight:
                loss = loss + self._feature_weight * _mimicry(target, reference)
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
                torch.softmax(self._reference_scale * reference[side] @ taught[1 - side].T, dim=1),
                reduction="none",
            )
            for side in (0, 1)
        ]
        return torch.stack(losses)


def _mimicry(target: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
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
    """The DRRHO risk, and distillation at its temperatures, each anchor's multiplied by its own τ.

    The risk is τ times a logarithm, so that its gradient by the features does not grow with 1/τ as
    that of a cross-entropy does: without τ as a factor, distillation would be all that is learned.
    Wei et al. 2025 combine the two so, in their code with a weight of 1. τ itself is learned from
    the risk alone, so that ρ keeps its meaning. Texts as anchors have a τ of their own where it is
    ``separate``, and each pair has where it is ``individual``.
    """

    def __init__(self, config: DRRhoDistillObjective, n: int, reference_scale: float) -> None:
        super().__init__(config, n)
        self._distillation = _Distillation(config, reference_scale)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:
        out = super().forward(features, batch, steering=steering)
        scales = tuple(1 / tau.detach() for tau in self.loss.temperature(batch.index))
        target = features["image_features"], features["text_features"]
        return out.plus(self._distillation(*target, scales, batch, times_tau=True))
