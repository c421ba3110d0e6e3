"""The pairs that weighed most as negatives, with their pictures."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rhocache_schemas import storage
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.loss.diagnostics import Steering

FILE = "heaviest.json"
PICTURES = "heaviest"
_MOST = 16


@dataclass(frozen=True, slots=True)
class HeavyPair:
    shard: str
    key: str
    caption: str
    weight: float  # 1 is what uniform weights would give it
    picture: str  # file name in PICTURES, of what the model was shown


class Heaviest:
    """Those of the logged steps of an epoch, the heaviest first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pairs: dict[int, tuple[HeavyPair, bytes]] = {}  # by number

    def add(self, steering: Steering, batch: Batch) -> list[tuple[HeavyPair, Tensor]]:
        """Take in a step of this process's ``batch``; give its heaviest pairs, [3, H, W] each."""
        places = {number: row for row, number in enumerate(batch.index.tolist())}
        order = steering.weight.argsort(descending=True)
        mine = [row for row in order.tolist() if int(steering.index[row]) in places][:_MOST]
        found: list[tuple[HeavyPair, Tensor]] = []
        for row in mine:
            number = int(steering.index[row])
            image = batch.image[places[number]].cpu()
            weight = float(steering.weight[row])
            pair = batch.pairs[places[number]]
            heavy = HeavyPair(pair.shard, pair.key, pair.caption or "", weight, f"{number}.png")
            self._pairs[number] = heavy, _png(image)
            found.append((heavy, image))
        ranked = sorted(self._pairs.items(), key=lambda item: -item[1][0].weight)
        self._pairs = dict(ranked[:_MOST])
        return found

    def write(self) -> None:
        """Write ``heaviest.json`` and the pictures that it names."""
        pictures = self._folder / PICTURES
        pictures.mkdir(exist_ok=True)
        for pair, png in self._pairs.values():
            storage.write_atomic(str(pictures / pair.picture), png)
        listed = json.dumps([asdict(pair) for pair, _ in self._pairs.values()], indent=1)
        storage.write_atomic(str(self._folder / FILE), listed.encode())
        for old in pictures.glob("*.png"):
            if old.name not in {pair.picture for pair, _ in self._pairs.values()}:
                old.unlink()


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
