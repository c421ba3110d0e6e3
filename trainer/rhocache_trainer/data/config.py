"""Where a run's pairs are, how they are read, and what happens to their images."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rhocache_schemas.dataset.formats import AUTO, Kind
from rhocache_schemas.dataset.formats.base import Source
from rhocache_schemas.documents import Location, Strict
from rhocache_trainer.settings import Positive, Share

PositiveRange = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
    Field(description="from, to"),
]


class Data(Source):
    """Where the pairs are, and how they are read."""

    kind: Annotated[
        Kind, Field(description="of the dataset; auto: by the suffix, or by what the folder holds")
    ] = AUTO
    only: Annotated[
        Location | None,
        Field(
            description="train on these pairs alone: the folder of a select job's table, or a "
            "Parquet file with shard and key"
        ),
    ] = None
    on_missing: Annotated[
        Literal["error", "skip"],
        Field(description="what to do with a pair that is unusable, or lacks its reference row"),
    ] = "error"
    shuffle_buffer: Annotated[
        Positive, Field(description="pairs held for shuffling, by each process")
    ] = 4096
    workers: Annotated[
        int, Field(ge=0, description="processes that read and decode; 0: the training one does")
    ] = 0
    threads: Annotated[Positive, Field(description="that decode images, in each process")] = 2


class Augmentation(Strict):
    """What happens to a training image."""

    scale: Annotated[PositiveRange, Field(description="share of the image that a crop keeps")] = (
        0.9,
        1.0,
    )
    ratio: Annotated[PositiveRange, Field(description="width over height of a crop")] = (
        3 / 4,
        4 / 3,
    )
    flip: Annotated[Share, Field(description="probability of mirroring left and right")] = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} runs from {low} down to {high}; put the smaller first")
        if self.scale[1] > 1:
            raise ValueError(f"scale {self.scale[1]} is more than the whole image")
        return self
