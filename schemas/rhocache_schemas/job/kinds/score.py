"""What a job is asked that scores a dataset with a reference into a cache."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rhocache_schemas.dataset.source import AUTO, Captions, Kind, Source
from rhocache_schemas.job.reference_output import Given
from rhocache_schemas.job.spec import Ask, JobSpec, Location, Output
from rhocache_schemas.job.views import Views
from rhocache_schemas.reference import Dtype, ReferenceSpec

PAIRS_BUDGET, SHARDS_BUDGET = 0.05, 0.0  # shares that may fail where a job does not say


class ScoreSpec(JobSpec):
    """Score a dataset with a reference into a cache."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "dataset": "/data/openclipart",
                    "output": "/data/caches/openclipart",
                    "reference": {"model": "local-dir:/data/models/vit-b-32"},
                    "metadata": {"owner": "vision"},
                },
                {
                    "dataset": "s3://data/laion/{00000..00099}.tar",
                    "output": "s3://data/caches/laion",
                    "reference": {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
                },
            ]
        }
    )

    kind: Literal["score"] = "score"
    dataset: Annotated[
        Location,
        Field(description="Folder, file, or brace pattern of tars: a path or a URI."),
        Ask(argument=True),
    ]
    output: Annotated[Output, Field(description="The cache's folder: a path or a URI.")]
    reference: ReferenceSpec
    shards: Annotated[
        str | None,
        Field(
            max_length=4096,
            description="Only tars or Parquet files whose names match; default: all.",
        ),
        Ask(metavar="GLOB"),
    ] = None
    limit: Annotated[
        int | None,
        Field(ge=1, description="Encode only the first so many pairs, as a try; default: all."),
    ] = None
    caption_field: Annotated[
        str | None,
        Field(description="Take captions from this field of KEY.json, not from KEY.txt."),
    ] = None
    format: Annotated[
        Kind, Field(description="Of the dataset; auto: by its suffix, or what its folder holds.")
    ] = AUTO
    image_suffix: Annotated[
        str | None,
        Field(
            max_length=256,
            description="Of images in tars and folders, as in input.jpg; several with a semicolon "
            "between; default: jpg;png;jpeg;webp.",
        ),
    ] = None
    caption_suffix: Annotated[
        str | None,
        Field(
            max_length=256,
            description="Of captions in tars and folders, several with a semicolon between; "
            "default: txt, or json with a caption field.",
        ),
    ] = None
    captions: Annotated[
        Captions,
        Field(
            description="Of each pair at most: the first that are not blank of a list, or of "
            "several suffixes or columns; default: 1."
        ),
    ] = None
    image_column: Annotated[
        str | None,
        Field(description="Of a table; default: image in Parquet, filepath in a CSV."),
    ] = None
    caption_column: Annotated[
        str | None,
        Field(
            description="Of a table, several with a semicolon between; default: caption in "
            "Parquet, title in a CSV."
        ),
    ] = None
    key_column: Annotated[
        str | None,
        Field(description="Of a table; default: key, or the name of a CSV's image up to a dot."),
    ] = None
    images: Annotated[
        Location | None,
        Field(description="Folder that a CSV's paths start from; default: the CSV's own."),
    ] = None
    reuse: Annotated[
        list[Location],
        Field(
            max_length=64,
            description="A cache by the same reference: pairs whose image and caption it has are "
            "not encoded, their rows are taken.",
        ),
        Ask(metavar="CACHE"),
    ] = Field(default_factory=list[str])
    also: Annotated[
        list[Given],
        Field(
            max_length=16,
            description="Another reference that scores the same pairs, read and decoded once, into "
            "a cache of its own: MODEL[,PRETRAINED][,PRECISION]=OUT.",
        ),
        Ask(metavar="REFERENCE=OUT"),
    ] = Field(default_factory=list[Given])
    views: Views = Views()
    dtype: Annotated[Dtype, Field(description="Type of the stored embeddings.")] = "float16"
    batch_size: Annotated[
        Annotated[int, Field(ge=1, le=65536)] | Literal["auto"],
        Field(description="Pairs that are encoded at once."),
    ] = "auto"
    workers: Annotated[
        int | None,
        Field(ge=1, le=4096, description="Encoders; default: one a GPU, or one a machine."),
    ] = None
    remote_decoders: Annotated[
        int | None,
        Field(
            ge=0,
            le=4096,
            description="Cores elsewhere in the cluster that decode images for each encoder; "
            "default: as many as a GPU needs beyond those of its own machine.",
        ),
    ] = None
    error_budget: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Largest share of pairs, and of shards, that may fail; default: 0.05 of "
            "the pairs, and no shard.",
        ),
    ] = None
    retry_failed: Annotated[
        bool,
        Field(description="Encode shards again that have rows which another try may mend."),
    ] = False
    prune: Annotated[
        bool, Field(description="Drop shards from the cache that left the dataset.")
    ] = False
    replace: Annotated[
        bool,
        Field(
            description="Give up what the output holds of another dataset or reference, and "
            "everything else that this job does not score."
        ),
    ] = False

    @property
    def outputs(self) -> list[str]:
        return [self.output, *(other.output for other in self.also)]

    @property
    def each(self) -> "list[ScoreSpec]":
        """The jobs of one reference and cache that it is, its own first."""
        alone = self.model_copy(update={"also": []})
        return [alone, *(alone.model_copy(update=dict(other)) for other in self.also)]

    @property
    def source(self) -> Source:
        """Where its pairs are."""
        return Source.model_validate(self.model_dump(include=set(Source.model_fields)))


Spec = ScoreSpec  # the one of this kind
