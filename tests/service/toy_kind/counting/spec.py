from typing import Annotated, Literal

from pydantic import Field

from rhocache_schemas.job.spec import Ask, JobSpec, Location


class CountSpec(JobSpec):
    """Count the pairs of a dataset."""

    kind: Literal["count"] = "count"
    dataset: Annotated[Location, Field(description="What to count."), Ask(argument=True)]
    beside: Annotated[Location | None, Field(description="A cache whose rows are counted too.")] = (
        None
    )
    prefix: Annotated[str | None, Field(description="Only keys that begin so.")] = None
    unit: Annotated[Literal["pairs", "captions"], Field(description="What is one.")] = "pairs"
    at_least: Annotated[int, Field(ge=0, le=10**6, description="Fewer are a failure.")] = 0
