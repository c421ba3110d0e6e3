"""What a job is asked that computes a reference's losses of labelled images from its cache."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.job.spec import Code, Location

_NO_CLASSIFIER: dict[str, Any] = {
    "prompts": {"type": "string"},
    **{name: {"type": "null"} for name in ("classifier", "classes", "mean", "std")},
}
# What the validator below asks, for those who read the JSON schema.
_LOGITS_COME_FROM_SOMEWHERE: dict[str, Any] = {
    "oneOf": [
        {"properties": _NO_CLASSIFIER | {"labels": {"type": "null"}}, "required": ["prompts"]},
        {
            "properties": _NO_CLASSIFIER
            | {"labels": {"type": "string"}, "dataset": {"type": "null"}},
            "required": ["prompts", "labels"],
        },
        {
            "properties": {
                "prompts": {"type": "null"},
                "classifier": {"type": "string"},
                "classes": {"type": "string"},
            },
            "required": ["classifier", "classes"],
        },
    ]
}

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_split = BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given)


class ClassifySpec(CacheJobSpec):
    """Classify a cache's images, zero-shot or by a classifier, and compute the cross-entropies."""

    model_config = ConfigDict(json_schema_extra=_LOGITS_COME_FROM_SOMEWHERE)

    kind: Literal["classify"] = "classify"
    prompts: Annotated[
        Location | None,
        Field(description="The classes: a table that a job of kind prompts has made."),
    ] = None
    classifier: Annotated[
        Code | None,
        Field(
            description="Instead of prompts: a program of torch.export.save that makes logits of "
            "the cache's embeddings, or of pictures. Loading it can run code."
        ),
    ] = None
    classes: Annotated[
        Location | None,
        Field(
            description="The classifier's, in the order of its logits: a text file of names, one a "
            "line, or a JSON list."
        ),
    ] = None
    mean: Annotated[
        Annotated[tuple[_Finite, _Finite, _Finite], _split] | None,
        Field(description="Of the pictures' channels; default: as for the cache's reference."),
    ] = None
    std: Annotated[
        Annotated[tuple[_Positive, _Positive, _Positive], _split] | None,
        Field(description="Of the pictures' channels; default: as for the cache's reference."),
    ] = None
    labels: Annotated[
        Location | None,
        Field(
            description="Parquet file with the columns shard, key and label: name or number; "
            "default: the dataset that was scored has them."
        ),
    ] = None
    dataset: Annotated[
        Location | None,
        Field(description="Where the dataset that was scored is; default: where it was."),
    ] = None
    label: Annotated[
        Literal["text", "folder"],
        Field(description="A pair's label in it: its text, or the last folder of its key."),
    ] = "text"
    class_field: Annotated[
        str | None,
        Field(
            description="Take the text from this field of KEY.json, or column of a table, and not "
            "from where captions are."
        ),
    ] = None

    @model_validator(mode="after")
    def _logits_come_from_somewhere(self) -> Self:
        if (self.prompts is None) == (self.classifier is None):
            raise ValueError("logits come from prompts, or from a classifier: give one of them")
        if (self.classifier is None) != (self.classes is None):
            raise ValueError("classifier and classes go together")
        if self.classifier is None and (self.mean or self.std):
            raise ValueError("mean and std go together with a classifier")
        if self.prompts and self.labels and self.dataset:
            raise ValueError(
                "labels come from a file, or from a dataset: give one of them; with both, a "
                "classifier takes its pictures from the dataset"
            )
        return self


Spec = ClassifySpec
