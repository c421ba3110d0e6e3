"""The architectures that open_clip has, with their pretrained weights, without importing it."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TypedDict

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.reference import HF_HUB, LOCAL_DIR, ReferenceSpec


class KnownModel(TypedDict):
    dimension: int  # of its embeddings
    pretrained: list[str]  # open_clip's tags


@cache
def known_models() -> dict[str, KnownModel]:
    """The architectures by name, of the newest open_clip that rhocache is tested with."""
    listed = files("rhocache_schemas").joinpath("models.json").read_bytes()
    return dict(sorted(json.loads(listed).items()))


def known_tags() -> dict[str, list[str]]:
    """Architecture -> its tags."""
    return {name: model["pretrained"] for name, model in known_models().items()}


def check_name(reference: ReferenceSpec, known: dict[str, list[str]] | None = None) -> None:
    """Raises InvalidInput where ``known`` has no such architecture or no such tag of it.

    A folder, a hub's repository and a checkpoint's path are for their loader to find.
    """
    if reference.model.startswith((LOCAL_DIR, HF_HUB)):
        return
    known = known_tags() if known is None else known
    model, tag = reference.model.replace("/", "-"), reference.pretrained or ""  # as open_clip reads
    if model not in known:
        raise InvalidInput(
            f"open_clip has no model {model!r}{did_you_mean(model, known)}; `rhocache models` "
            f"lists them, and a folder is {LOCAL_DIR}PATH"
        )
    is_path = any(each in tag for each in "/\\.:")
    if not is_path and tag.lower().replace("-", "_") not in known[model]:
        raise InvalidInput(
            f"open_clip has no weights {tag!r} of {model}{did_you_mean(tag, known[model])}; "
            f"`rhocache models {model}` lists them"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Advice to append to an error, where ``known`` has names like this one."""
    lower = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(lower[each] for each in close)}?" if close else ""
