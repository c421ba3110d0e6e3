"""Detects weights that were trained with QuickGELU, by their names: their numbers don't say."""

# pyright: basic

import re
from pathlib import Path
from typing import Any

import open_clip

from rhocache_schemas.reference import HF_HUB, LOCAL_DIR


def activation_warning(model: str, pretrained: str | None, config: dict[str, Any]) -> str | None:
    """Say that weights are called like ones trained with another activation than ``config`` has.

    By open_clip's table of weights (files and Hugging Face repositories), or by the word quickgelu
    or openai in the name of a file or its folder. None for a tag, which open_clip itself compares.
    """
    if pretrained and open_clip.get_pretrained_cfg(model, pretrained):
        return None
    source = pretrained or model.removeprefix(LOCAL_DIR).removeprefix(HF_HUB)
    trained = _trained_with_quick_gelu(source)
    computes = bool(config.get("quick_gelu", False))
    if trained is None or trained == computes:
        return None
    names = {True: "QuickGELU", False: "GELU"}
    return (
        f"{source} is called like weights that were trained with {names[trained]}, but {model} "
        f"computes {names[computes]}: if so, its embeddings are not those it was trained "
        f"to give ({'use' if trained else 'leave out'} -quickgelu or the config's quick_gelu)"
    )


def _trained_with_quick_gelu(source: str) -> bool | None:
    known: dict[str, set[bool]] = {}
    for pair in open_clip.list_pretrained():
        tag: Any = open_clip.get_pretrained_cfg(*pair)
        for place in (tag.get("url", ""), tag.get("hf_hub", "").rstrip("/")):
            name = place.partition("?")[0].rpartition("/")[2].lower()
            known.setdefault(name, set()).add(tag.get("quick_gelu", False))
    path = Path(source)
    # A hub's cache has a file at models--ORG--REPO/snapshots/COMMIT/FILE.
    for part in (part.lower().rpartition("--")[2] for part in reversed(path.parts)):
        if len(known.get(part, ())) == 1 and part != "pytorch_model.bin":
            return next(iter(known[part]))
    words = "/".join(path.parts[-2:]).lower()
    return True if re.search(r"quick[-_]?gelu|(?<![a-z])openai(?![a-z])", words) else None
