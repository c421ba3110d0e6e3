"""Decodes the pictures of pairs, and has a classifier look at them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import PairMismatch
from rhocache_workers.encode.decode import Decoded, ThreadDecoder
from rhocache_workers.encode.viewer import Viewer
from rhocache_workers.over_cache.classifier import Classifier, Logits
from rhocache_workers.stage_times import Stages


def logits_of(classifier: Classifier, viewer: Viewer, pairs: Iterable[Pair]) -> Logits:
    """Return [n, classes] of the pictures of pairs that were scored before.

    Raises PairMismatch for a picture that can't be decoded any more, and what ``pairs`` and the
    classifier raise.
    """
    found = [np.zeros((0, classifier.classes))]
    pictures = _decoded(viewer, pairs, 2 * classifier.most)
    while batch := list(islice(pictures, classifier.most)):
        found.append(classifier.logits(viewer.preprocess.normalize(torch.stack(batch))))
    return np.concatenate(found)


def _decoded(viewer: Viewer, pairs: Iterable[Pair], ahead: int) -> Iterator[Tensor]:
    """Yield uint8 [3, height, width] of each pair, and decode so many of them ahead."""
    decoder = ThreadDecoder(viewer, torch.get_num_threads())  # as Ray, or the machine, gives cores
    stages = Stages(decoder.decoders)
    waiting: deque[tuple[Pair, Future[Decoded]]] = deque()

    def take() -> Tensor:
        pair, future = waiting.popleft()
        decoded = decoder.wait(future)
        if not isinstance(decoded, Tensor):
            raise PairMismatch(
                f"shard {pair.shard}, key {pair.key}: its picture was decoded when it was scored, "
                f"and can't be here: {decoded}"
            )
        return decoded[0]

    for pair in pairs:
        future = decoder.submit(pair.image or b"", (pair.shard, pair.key), stages)
        waiting.append((pair, future))
        if len(waiting) == ahead:
            yield take()
    while waiting:
        yield take()
