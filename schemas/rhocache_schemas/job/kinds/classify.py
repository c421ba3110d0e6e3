"""What a job is asked that computes a reference's losses of labelled images from its cache."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.job.spec import Location

# What the validator below asks, for those who read the JSON schema.
_LABELS_COME_FROM_SOMEWHERE: dict[str, Any] = {
    "oneOf": [
        {
            "properties": {"labels": {"type": "string"}, "dataset": {"type": "null"}},
            "required": ["labels"],
        },
        {
            "properties": {"labels": {"type": "null"}, "dataset": {"type": "string"}},
            "required": ["dataset"],
        },
    ]
}


class ClassifySpec(CacheJobSpec):
    """Classify a cache's images zero-shot, and compute the cross-entropy of each one's label."""

    model_config = ConfigDict(json_schema_extra=_LABELS_COME_FROM_SOMEWHERE)

    kind: Literal["classify"] = "classify"
    prompts: Annotated[
        Location, Field(description="The classes: a table that a job of kind prompts has made.")
    ]
    labels: Annotated[
        Location | None,
        Field(description="Parquet file with the columns shard, key and label: name or number."),
    ] = None
    dataset: Annotated[
        Location | None,
        Field(description="Take labels from the dataset that was scored instead."),
    ] = None
    label: Annotated[
        Literal["text", "folder"],
        Field(description="A pair's label in it: its text, or the last folder of its key."),
    ] = "text"
    class_field: Annotated[
        str | None,
        Field(description="Take the text from this field of KEY.json, not from KEY.txt."),
    ] = None

    @model_validator(mode="after")
    def _labels_come_from_somewhere(self) -> Self:
        if (self.labels is None) == (self.dataset is None):
            raise ValueError("labels come from a file, or from a dataset: give one of them")
        return self


Spec = ClassifySpec
