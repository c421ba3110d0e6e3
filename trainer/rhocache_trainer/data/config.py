"""Where a run's pairs are, and how they are read."""

from typing import Annotated, Literal

from pydantic import Field

from rhocache_schemas.dataset.source import AUTO, Kind, Source
from rhocache_schemas.documents import Location
from rhocache_trainer.settings import Positive


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
