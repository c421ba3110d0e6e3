"""Measures on the device which batch size suits it, and how exact its arithmetic is."""

import time
from dataclasses import dataclass

import torch

from rhocache_workers.encode.batches import Towers
from rhocache_workers.reference.model import Reference
from rhocache_workers.reference.packed_blocks import MIN_ROWS

LARGEST = {"cpu": 32, "cuda": 1024}  # on CPUs larger ones are slower: they leave the caches
TRIES = 2  # at each size, of which the faster counts: other work may disturb one
# Of the best rate: a shared machine's timings are off by as much, and larger batches of images mean
# larger ones of texts, which gain more by it.
NO_SLOWER = 0.8
LONG = 5.0  # seconds of a batch: it is timed once, and a larger one would gain nothing


@dataclass(frozen=True, slots=True)
class Calibration:
    batch_size: int
    images_per_second: float  # through the image tower
    # Whether an embedding has the same bits whatever it is encoded with. Only then may shards
    # share embeddings: a shard file's bytes must not tell which shards came before it.
    stable: bool


@torch.inference_mode()
def calibrate(reference: Reference, batch_size: int | None) -> Calibration:
    """Choose the batch size, where it is None, and see whether batches change the bits.

    Doubles the batch until that makes images clearly slower, takes LONG or does not fit in memory.
    """
    largest = LARGEST[reference.device.type] if batch_size is None else batch_size
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (largest, 3, *reference.image_size), dtype=torch.uint8, generator=random
    )
    size = min(MIN_ROWS, largest)
    first = Towers(reference, size).images(list(pixels[:size])).cpu()  # also warms up
    alone = Towers(reference, size).images(list(pixels[:1])).cpu()
    stable = torch.equal(alone, first[:1])
    tries = TRIES
    if batch_size is not None:
        size, tries = largest, 1
    best, chosen = 0.0, size
    while True:
        towers = Towers(reference, size)
        rate = seconds = 0.0
        for _ in range(tries):
            started = time.perf_counter()
            found = towers.images(list(pixels[:size])).cpu()
            seconds = time.perf_counter() - started
            rate = max(rate, size / seconds)
            stable = stable and torch.equal(found[: len(first)], first)
            if seconds > LONG:
                break
        slower = rate < NO_SLOWER * best
        if not slower:
            best, chosen = max(rate, best), towers.batch_size
        if slower or seconds > LONG or towers.batch_size < size or size == largest:
            break
        size = min(largest, size * 2)
    return Calibration(chosen, best, stable and _texts_are_stable(reference, chosen))


def _texts_are_stable(reference: Reference, batch_size: int) -> bool:
    towers = Towers(reference, batch_size)
    tokens = reference.tokenizer(["word " * words for words in range(24)])
    together = towers.texts(tokens)
    apart = [towers.texts(tokens[part::2]) for part in range(2)]
    return torch.equal(torch.stack(apart, dim=1).flatten(0, 1), together)
