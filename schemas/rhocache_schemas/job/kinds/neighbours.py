"""What a job is asked that finds the nearest pairs and near-duplicates of a cache."""

from typing import Annotated, Literal

from pydantic import Field

from rhocache_schemas.job.over_cache import CacheJobSpec

Compared = Literal["images", "texts", "images-to-texts", "texts-to-images"]
IndexKind = Literal["auto", "flat", "ivf", "hnsw"]


class NeighboursSpec(CacheJobSpec):
    """Find each pair's nearest others, and the groups of near-duplicates."""

    kind: Literal["neighbours"] = "neighbours"
    compare: Annotated[
        Compared,
        Field(description="Whose embeddings: each pair's own with those of the others."),
    ] = "images"
    k: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="How many nearest of each pair; default: 10, or with a threshold all.",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        Field(
            ge=-1,
            le=1,
            description="Only others whose cosine is at least this. They make the groups.",
        ),
    ] = None
    index: Annotated[
        IndexKind,
        Field(
            description="flat: exact. ivf and hnsw: approximate, in memory, with measured recall. "
            "auto: flat up to a million pairs, ivf above."
        ),
    ] = "auto"


Spec = NeighboursSpec
