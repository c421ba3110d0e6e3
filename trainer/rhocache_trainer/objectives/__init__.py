"""What a run minimises: one objective a file."""

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.objectives.base import Features, Objective
from rhocache_trainer.objectives.contrastive import ContrastiveRisk
from rhocache_trainer.objectives.distill import Distill, DRRhoDistill
from rhocache_trainer.objectives.jest import Jest
from rhocache_trainer.objectives.open_clip_losses import Clip, Siglip
from rhocache_trainer.training.config import (
    ClipObjective,
    DistillObjective,
    DRRhoDistillObjective,
    JestObjective,
    ObjectiveConfig,
    SiglipObjective,
)

__all__ = ["Features", "Objective", "build_objective"]


def build_objective(config: ObjectiveConfig, n: int, manifest: Manifest | None) -> Objective:
    """``n`` is the number of pairs that a batch's ``index`` runs over; ``manifest`` the cache's.

    Raises InvalidInput for a reference that has no logit bias where one is needed.
    """
    scale = 1.0 if manifest is None else manifest.logit_scale
    match config:
        case ClipObjective():
            return Clip()
        case SiglipObjective():
            return Siglip()
        case DistillObjective():
            return Distill(config, scale)
        case DRRhoDistillObjective():
            return DRRhoDistill(config, n, scale)
        case JestObjective():
            bias = None if manifest is None else manifest.logit_bias
            if config.reference_bias is not None:
                bias = config.reference_bias
            if bias is None:
                raise InvalidInput(
                    "the cache's reference was trained without a logit bias, so it has no sigmoid "
                    "loss; set objective.reference_bias, as to -10"
                )
            return Jest(config, scale, bias)
        case _:
            return ContrastiveRisk(config, n)
