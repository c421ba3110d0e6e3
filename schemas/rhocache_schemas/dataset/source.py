"""What says where the pairs of a dataset are, and how they are stored."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rhocache_schemas.documents import Location, Strict

Kind = Literal["auto", "webdataset", "parquet", "csv", "folder"]

AUTO: Kind = "auto"
TARS: Kind = "webdataset"

# The settings that choose what a pair's image, caption and key are, and so the rows of a cache.
OF_ROWS = (
    "caption_field",
    "image_column",
    "caption_column",
    "key_column",
    "image_suffix",
    "caption_suffix",
    "captions",
)

# None where one is: it is what every cache of earlier versions has.
Captions = Annotated[
    Annotated[int, Field(ge=1, le=64)] | None,
    AfterValidator(lambda most: None if most == 1 else most),
]


class Source(Strict):
    """Where the pairs are, and how they are stored. A format looks at what it has a use for."""

    dataset: Annotated[
        Location, Field(description="a folder, a file or a brace pattern; a local path or URI")
    ]
    shards: Annotated[
        str | None, Field(description="glob that the names of tars or Parquet files must match")
    ] = None
    caption_field: Annotated[
        str | None, Field(description="field of KEY.json to take captions from, not KEY.txt")
    ] = None
    image_suffix: Annotated[
        str | None,
        Field(
            description="of images in tars and folders; several with a semicolon between; null: "
            "jpg;png;jpeg;webp"
        ),
    ] = None
    caption_suffix: Annotated[
        str | None,
        Field(description="of captions in tars and folders; null: txt, json with a caption_field"),
    ] = None
    captions: Annotated[
        Captions,
        Field(
            description="of each pair at most, the first that are not blank of a list, of several "
            "suffixes or columns with semicolons between; null: as many as the cache has, or 1"
        ),
    ] = None
    images: Annotated[
        Location | None,
        Field(description="folder that a table's paths start from; null: the table's own"),
    ] = None
    image_column: Annotated[
        str | None, Field(description="null: image in Parquet, filepath in a CSV")
    ] = None
    caption_column: Annotated[
        str | None,
        Field(
            description="several with a semicolon between; null: caption in Parquet, title in a CSV"
        ),
    ] = None
    key_column: Annotated[
        str | None, Field(description="null: key, or the name of a CSV's image up to a dot")
    ] = None
    shard_column: Annotated[
        str | None,
        Field(description="the cache's shard of each pair, where keys are in several; null: shard"),
    ] = None

    @property
    def most_captions(self) -> int:
        """How many captions of a pair are read."""
        return self.captions or 1

    @property
    def of_rows(self) -> dict[str, str | int | None]:
        """The settings OF_ROWS."""
        return {name: getattr(self, name) for name in OF_ROWS}
