"""What a job is asked that computes global contrastive losses from a cache."""

from typing import Annotated, Literal

from pydantic import Field

from rhocache_schemas.job.over_cache import CacheJobSpec


class LossesSpec(CacheJobSpec):
    """Compute each pair's contrastive loss against all pairs of a cache."""

    kind: Literal["losses"] = "losses"
    tau: Annotated[
        float | None,
        Field(
            ge=1e-30,
            le=1e6,
            description="Temperature; default: the reference's own, 1 over its logit scale.",
        ),
    ] = None
    sample: Annotated[
        int | None,
        Field(
            ge=3,
            description="Estimate from so many pairs, drawn at random; default: exactly, from all.",
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of the drawing.")] = 0


Spec = LossesSpec
