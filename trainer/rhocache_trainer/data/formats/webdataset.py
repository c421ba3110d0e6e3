"""WebDataset tar shards, each a part under its own name."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from rhocache_schemas.dataset.formats.base import Part, Record, checked
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import RowError


class TarShards:
    """``caption_field`` is the field of KEY.json to take captions from, instead of KEY.txt."""

    def __init__(self, shards: Sequence[Shard], caption_field: str | None = None) -> None:
        self.parts = [Part(shard.name, None) for shard in shards]
        self.caption_field = caption_field
        self._shards = {shard.name: shard for shard in shards}

    def read(self, part: Part, start: int) -> Iterator[Record]:
        pairs = ShardReader(self._shards[part.name], self.caption_field)
        for pair in islice(pairs, start, None):
            yield Record(pair.row, pair.key, partial(_content, pair))


def _content(pair: Pair) -> tuple[bytes, str]:
    if pair.error is not None:
        raise RowError(pair.error, pair.error)
    return checked(pair.image, pair.caption)
