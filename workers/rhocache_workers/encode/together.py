"""Lets several references encode the pairs of a shard that are read and decoded once."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future

from torch import Tensor

from rhocache_schemas.errors import RowErrorCode
from rhocache_workers.encode.decode import Decoded, Decoder
from rhocache_workers.encode.viewer import PairName
from rhocache_workers.stage_times import Stages


class Once:
    """Begins to decode an image once, when references ask for it one after the other."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._last: tuple[bytes, PairName, Future[Decoded]] | None = None

    def submit(self, data: bytes, name: PairName, stages: Stages) -> Future[Decoded]:
        if self._last is None or self._last[0] is not data or self._last[1] != name:
            self._last = data, name, self.decoder.submit(data, name, stages)
        return self._last[2]


class OwnPictures:
    """A Decoder for one of these references: ``own`` finds its pictures in what is decoded."""

    def __init__(self, once: Once, own: Callable[[Tensor], Tensor]) -> None:
        self._once = once
        self._own = own
        self.decoders = once.decoder.decoders

    def submit(self, data: bytes, name: PairName, stages: Stages) -> Future[Decoded]:
        return self._once.submit(data, name, stages)

    def wait(self, future: Future[Decoded]) -> Decoded:
        decoded = self._once.decoder.wait(future)
        return decoded if isinstance(decoded, RowErrorCode) else self._own(decoded)


def in_step(works: Sequence[Generator[int]]) -> Iterator[int]:
    """Run works that tell how far they are, always the one that is behind; yield how far all are.

    What they share, of which each has a copy to go through, waits for the slowest no longer than
    it takes the others to tell once.
    """
    far = dict.fromkeys(range(len(works)), 0)
    try:
        while far:
            behind = min(far, key=lambda number: far[number])
            try:
                far[behind] = next(works[behind])
            except StopIteration:
                del far[behind]
            else:
                yield min(far.values())
    finally:
        for work in works:
            work.close()
