"""What says where the pairs of a dataset are, and how they are stored."""

from typing import Annotated, Literal

from pydantic import Field

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
)


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
    images: Annotated[
        Location | None,
        Field(description="folder that a table's paths start from; null: the table's own"),
    ] = None
    image_column: Annotated[
        str | None, Field(description="null: image in Parquet, filepath in a CSV")
    ] = None
    caption_column: Annotated[
        str | None, Field(description="null: caption in Parquet, title in a CSV")
    ] = None
    key_column: Annotated[
        str | None, Field(description="null: key, or the name of a CSV's image up to a dot")
    ] = None
    shard_column: Annotated[
        str | None,
        Field(description="the cache's shard of each pair, where keys are in several; null: shard"),
    ] = None

    @property
    def of_rows(self) -> dict[str, str | None]:
        """The settings OF_ROWS."""
        return {name: getattr(self, name) for name in OF_ROWS}
