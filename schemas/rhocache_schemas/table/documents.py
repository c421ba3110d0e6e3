"""The JSON documents of a table, and what they are made of."""

from typing import Annotated

from pydantic import Field

from rhocache_schemas.cache.documents import Count
from rhocache_schemas.documents import Document, Strict
from rhocache_schemas.job.kinds import AnySpec

Value = str | int | float | bool | None


class Column(Strict):
    name: str
    type: Annotated[str, Field(description="Arrow's name of it, as in double, string or int32")]
    description: str


class Histogram(Strict):
    """How the values of a column are spread: bins of equal width from ``low`` to ``high``."""

    column: str
    low: float
    high: float
    counts: list[Count]


class Sample(Strict):
    """Some rows that are worth a look."""

    title: str
    columns: list[str]
    rows: list[list[Value]]


class Summary(Strict):
    """What a page shows at once, however large the table is."""

    facts: Annotated[
        dict[str, Value], Field(description="a number or word by what it is called")
    ] = Field(default_factory=dict[str, Value])
    histograms: list[Histogram] = Field(default_factory=list[Histogram])
    samples: list[Sample] = Field(default_factory=list[Sample])


class TablePlan(Document):
    """``table-plan.json``: what a table was begun for. Written before its first file."""

    spec: AnySpec
    cache_manifest_sha256: str  # of the file manifest.json
    inputs: dict[str, str]  # name -> hash, of what it was made from beside the cache
    identity: str
    created_at: float  # Unix seconds


class TableManifest(Document):
    """``table.json``: the commit point. A table without it is not complete."""

    spec: AnySpec
    cache_manifest_sha256: str  # of the file manifest.json
    cache_fingerprint_sha256: str
    inputs: dict[str, str]
    identity: str
    columns: list[Column]  # of the files of shards; none where there are none
    rows: Count
    files: Count
    index_sha256: str
    summary: Summary
    software: dict[str, str]  # package -> version
    created_at: float  # Unix seconds
