"""What a job is asked that embeds the names of classes with a cache's reference."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.job.spec import Location

Templates = Literal["openai", "simple", "name"]


# What the validator below asks, for those who read the JSON schema.
_NAMES_COME_FROM_SOMEWHERE: dict[str, Any] = {
    "oneOf": [
        {
            "properties": {
                "classes": {"type": "string"},
                "dataset": {"type": "null"},
                "class_field": {"type": "null"},
            },
            "required": ["classes"],
        },
        {
            "properties": {"classes": {"type": "null"}, "class_field": {"type": "string"}},
            "required": ["class_field"],
        },
    ]
}


class PromptsSpec(CacheJobSpec):
    """Embed class names in prompts with a cache's reference, for zero-shot classification."""

    model_config = ConfigDict(json_schema_extra=_NAMES_COME_FROM_SOMEWHERE)

    kind: Literal["prompts"] = "prompts"
    classes: Annotated[
        Location | None, Field(description="Text file of class names, one a line.")
    ] = None
    dataset: Annotated[
        Location | None,
        Field(description="Where class_field is looked for; default: in what was scored."),
    ] = None
    class_field: Annotated[
        str | None,
        Field(
            description="Take the names that occur in a dataset instead, in this field of "
            "KEY.json or column of a table."
        ),
    ] = None
    templates: Annotated[
        Templates,
        Field(description="Sentences around a name: open_clip's 80 or 7, or the bare name."),
    ] = "openai"
    templates_file: Annotated[
        Location | None,
        Field(description="Text file of other sentences, one a line, with {} for the name."),
    ] = None

    @model_validator(mode="after")
    def _names_come_from_somewhere(self) -> Self:
        if self.dataset is not None and self.class_field is None:
            raise ValueError(
                "a dataset has class names in a class_field: dataset and it go together"
            )
        if (self.classes is None) == (self.class_field is None):
            raise ValueError(
                "class names come from classes, or from a dataset's class_field: give one of them"
            )
        return self


Spec = PromptsSpec
