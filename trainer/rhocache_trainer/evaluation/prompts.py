"""The classes of a dataset's pairs, the prompts around their names, and a dataset of prompts."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal

import open_clip
from PIL import Image

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats import open_dataset, read_shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError, InvalidInput

Templates = Literal["openai", "simple", "name"]

_SHARD_PAIRS = 10_000

TEMPLATES: dict[str, Sequence[Callable[[str], str]]] = {
    "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
    "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    "name": (str,),  # for captions that are no sentences
}


def class_of(metadata: bytes | None, field: str | None) -> str | None:
    """Return the class that a pair's JSON holds in ``field``, or None: no JSON, no such string."""
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


def write_prompts(
    dataset: str,
    output: str,
    *,
    class_field: str,
    templates: Templates = "openai",
    shards: str | None = None,
) -> int:
    """Write a WebDataset with a pair for each class of ``dataset`` and each template.

    Its caption is the prompt, its image a small grey one, because a reference scores pairs, and its
    JSON names the class. Returns the number of pairs. Equal classes give equal bytes.

    Raises InvalidInput when there is something at ``output``, and DatasetError when no pair of the
    dataset has a class.
    """
    if storage.exists(output):
        raise InvalidInput(f"{output} is already there: choose another folder for the prompts")
    source = Source(dataset=dataset, shards=shards)
    names = {
        class_of(pair.metadata, class_field)
        for shard in open_dataset(source).shards
        for pair in read_shard(shard, source)
    }
    check_some(list(names), dataset, class_field)
    pairs = _pairs(sorted(name for name in names if name is not None), templates)
    count = shard = 0
    while chunk := list(islice(pairs, _SHARD_PAIRS)):
        storage.write_atomic(storage.join(output, f"{shard:05}.tar"), _tar(chunk))
        count += len(chunk)
        shard += 1
    return count


def _pairs(names: list[str], templates: Templates) -> Iterator[dict[str, bytes]]:
    """The members of each pair, by name."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "grey").save(buffer, "PNG")
    for number, name in enumerate(names):
        for template, prompt in enumerate(prompts(name, templates)):
            key = f"{number:05}-{template:03}"
            yield {
                f"{key}.png": buffer.getvalue(),
                f"{key}.txt": prompt.encode(),
                f"{key}.json": json.dumps({"class": name}).encode(),
            }


def _tar(pairs: list[dict[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for members in pairs:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
