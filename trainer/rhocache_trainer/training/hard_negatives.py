"""The pairs that weighed most as negatives, with their pictures."""

import io

import torch
from PIL import Image
from torch import Tensor

from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.loss.diagnostics import Steering
from rhocache_trainer.run_folder import HeavyPair, RunFolder

_MOST = 16


class Heaviest:
    """Those of the logged steps of an epoch, the heaviest first."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._pairs: dict[int, tuple[HeavyPair, bytes | None]] = {}  # by number

    def add(self, steering: Steering, batch: Batch) -> list[tuple[HeavyPair, Tensor | None]]:
        """Take in a step of this process's ``batch``; return its heaviest pairs, [3, H, W] each.

        The picture is None where the model is shown none.
        """
        places = {number: row for row, number in enumerate(batch.index.tolist())}
        order = steering.weight.argsort(descending=True)
        mine = [row for row in order.tolist() if int(steering.index[row]) in places][:_MOST]
        found: list[tuple[HeavyPair, Tensor | None]] = []
        for row in mine:
            number = int(steering.index[row])
            image = batch.image[places[number]].cpu() if batch.image.numel() else None
            weight = float(steering.weight[row])
            pair = batch.pairs[places[number]]
            heavy = HeavyPair(
                shard=pair.shard,
                key=pair.key,
                caption=pair.caption or "",
                weight=weight,
                picture=None if image is None else f"{number}.png",
            )
            self._pairs[number] = heavy, None if image is None else _png(image)
            found.append((heavy, image))
        ranked = sorted(self._pairs.items(), key=lambda item: -item[1][0].weight)
        self._pairs = dict(ranked[:_MOST])
        return found

    def write(self) -> None:
        self._folder.write_heaviest(list(self._pairs.values()))


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
