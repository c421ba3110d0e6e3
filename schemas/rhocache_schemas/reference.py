"""How a reference model is named: open_clip's own naming."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from rhocache_schemas.documents import Strict

Precision = Literal["fp32", "bf16", "fp16"]
Dtype = Literal["float16", "float32", "int8"]  # of stored embeddings

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"


# What the validator below asks, for those who read the JSON schema.
_WEIGHTS_ARE_NAMED_ONCE: dict[str, Any] = {
    "oneOf": [
        {
            "properties": {
                "model": {"pattern": f"^({LOCAL_DIR}|{HF_HUB})."},
                "pretrained": {"type": "null"},
            }
        },
        {
            "properties": {
                "model": {"pattern": f"^(?!{LOCAL_DIR}|{HF_HUB})."},
                "pretrained": {"type": "string", "minLength": 1},
            },
            "required": ["pretrained"],
        },
    ]
}


class ReferenceSpec(Strict):
    """A frozen CLIP.

    ``model`` is an open_clip architecture (``ViT-B-32``), ``local-dir:PATH`` or
    ``hf-hub:ORG/REPO``. The latter two bring their weights; an architecture needs
    ``pretrained``: one of open_clip's tags, or a checkpoint's path.
    """

    model_config = ConfigDict(json_schema_extra=_WEIGHTS_ARE_NAMED_ONCE)

    model: Annotated[
        str, Field(description="open_clip architecture, local-dir:PATH or hf-hub:ORG/REPO.")
    ]
    pretrained: Annotated[
        str | None, Field(description="Weights of an architecture: open_clip's tag, or a file.")
    ] = None
    precision: Annotated[Precision, Field(description="What the reference computes in.")] = "fp32"

    @property
    def local_dir(self) -> str | None:
        return self.model.removeprefix(LOCAL_DIR) if self.model.startswith(LOCAL_DIR) else None

    @model_validator(mode="after")
    def _weights_are_named_once(self):
        brings_weights = self.model.startswith((LOCAL_DIR, HF_HUB))
        if self.model in ("", LOCAL_DIR, HF_HUB):
            raise ValueError(f"model {self.model!r} names nothing")
        if brings_weights and self.pretrained is not None:
            raise ValueError(f"{self.model} brings its own weights; leave pretrained out")
        if not brings_weights and not self.pretrained:
            raise ValueError(
                f"architecture {self.model} needs pretrained: a tag of open_clip's or a "
                "checkpoint's path (random weights are no reference)"
            )
        return self
