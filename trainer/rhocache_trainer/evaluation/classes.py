"""The class of a pair, a field of its JSON, and the prompts around a class's name."""

import json
from collections.abc import Callable, Sequence
from typing import Literal

import open_clip

from rhocache_schemas.errors import DatasetError

Templates = Literal["openai", "simple"]

TEMPLATES: dict[str, Sequence[Callable[[str], str]]] = {
    "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
    "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
}


def class_of(metadata: bytes | None, field: str | None) -> str | None:
    """Give the class that a pair's JSON holds in ``field``, or None: no JSON, no such string."""
    try:
        fields = json.loads(metadata or b"null")
        value = fields.get(field) if isinstance(fields, dict) else None
        # A lone surrogate, which JSON can spell, has no UTF-8, so no prompt can be written with it.
        return value if isinstance(value, str) and value.encode() else None
    except (ValueError, RecursionError):  # no JSON, or JSON that is nested too deep
        return None


def check_some(classes: Sequence[str | None], dataset: str, field: str) -> None:
    """Raises DatasetError when no pair has a class."""
    if not any(classes):
        raise DatasetError(
            f"no pair of {dataset} has a class: its JSON must hold a string in the field {field!r}"
        )


def spoken(name: str) -> str:
    """A class's name as prompts have it."""
    return name.replace("_", " ")


def prompts(name: str, templates: Templates) -> list[str]:
    """The captions that stand for a class, one for each template."""
    return [template(spoken(name)) for template in TEMPLATES[templates]]
