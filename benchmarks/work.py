"""What must be computed for a dataset, once nothing is computed twice or for padding."""

from collections import Counter
from dataclasses import dataclass

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_workers.plan.flops import Outline


@dataclass(frozen=True, slots=True)
class Useful:
    images: int  # different ones
    captions: int
    image_flops: int
    text_flops: int

    @property
    def flops(self) -> int:
        return self.image_flops + self.text_flops


def useful_flops(model: str, data: str, shards: str) -> Useful:
    images: set[bytes] = set()
    captions: dict[bytes, str] = {}
    for shard in list_shards(data, shards):
        for pair in ShardReader(shard):
            if pair.image is not None and pair.caption is not None and pair.error is None:
                images.add(hash_image(pair.image))
                captions[hash_caption(pair.caption)] = pair.caption
    outline = Outline(f"local-dir:{model}")
    lengths = Counter(outline.text_lengths(list(captions.values())))
    text = sum(count * outline.text_flops(length) for length, count in lengths.items())
    return Useful(len(images), len(captions), len(images) * outline.image_flops(), text)
