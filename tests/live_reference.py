"""Training with the reference at work in every step, which only tests and a benchmark do."""

import io
import json
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import torch
from PIL import Image, ImageOps

from rhocache_schemas.dataset.augmentation import ViewDraws, draw_view
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.view import _OPERATIONS  # tested against torchvision's
from rhocache_schemas.job.views import Views
from rhocache_trainer.data import dataset as training_data
from rhocache_trainer.model.clip import build_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "openclipart"
VIEWS = {"count": 3, "seed": 9, "scale": [0.3, 1.0], "flip": 0.5, "color_jitter": 0.4}
MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RUN: dict[str, Any] = {
    "data": {"dataset": str(EXAMPLE), "shards": "00000.tar", "on_missing": "skip"},
    "model": MODEL,
    "objective": {"name": "drrho", "temperature": "learnable"},
    "batch_size": 16,
    "epochs": 4,
    "log_every": 1,
    "device": "cpu",
}


def job(reference: Path) -> dict[str, Any]:
    """What a job is asked but for its output: 96 pairs, of three views each."""
    return {
        "dataset": str(EXAMPLE),
        "shards": "00000.tar",
        "limit": 96,
        "reference": {"model": f"local-dir:{reference}"},
        "views": VIEWS,
    }


def make_reference(folder: Path) -> None:
    """One of another size, colour and dimension than the model that is trained."""
    torch.manual_seed(1)
    model = build_model(
        {**MODEL, "embed_dim": 24, "vision_cfg": MODEL["vision_cfg"] | {"image_size": 32}},
        preprocess={"mean": (0.3, 0.4, 0.5), "std": (0.2, 0.3, 0.2)},
    )
    model.export(folder)


class Live:
    """The reference, run on the very views and captions that a batch shows."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.model.eval()
        self.seen: set[int] = set()
        self.captions: set[int] = set()

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Within it, what a cache says of a batch is replaced by what the reference does."""
        collate = training_data.collate

        def collate_live(examples: list[Any], skipped: dict[str, int]) -> Any:
            return replace(collate(examples, skipped), **self.embeddings(examples))

        with patch.object(training_data, "collate", collate_live):
            yield

    @torch.no_grad()
    def embeddings(self, examples: list[Any]) -> dict[str, torch.Tensor]:
        shown = torch.stack([self.transform(self.view(example)) for example in examples])
        tokens = self.tokenizer([self.caption(example) for example in examples])
        return {
            "reference_image": self.model.encode_image(shown, normalize=True),
            "reference_text": self.model.encode_text(tokens, normalize=True),
        }

    def caption(self, example: Any) -> str:
        self.captions.add(example.caption)
        return example.joined.pair.captions[example.caption]

    def view(self, example: Any) -> Image.Image:
        pair, number = example.joined.pair, example.view
        self.seen.add(number)
        image = open_image(pair.image).convert("RGB")
        if number == 0:
            return image
        view = draw_view(
            *image.size, Views.model_validate(VIEWS), ViewDraws(9, pair.shard, pair.key, number)
        )
        image = image.resize((32, 32), Image.Resampling.BICUBIC, box=view.box)
        image = ImageOps.mirror(image) if view.mirrored else image
        for operation, amount in view.operations:
            image = _OPERATIONS[operation](image, amount)
        return image


def steps(folder: Path) -> dict[str, np.ndarray]:
    """What a run's log says of each step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        name: np.array([line[name] for line in lines if name in line])
        for name in ("objective", "tau", "gradient_norm")
    }


def recaption(path: Path) -> None:
    """Write the pairs with one to three captions, in a list: their own, and those of the next."""
    with tarfile.open(EXAMPLE / "00000.tar") as tar:
        files = {each.name: tar.extractfile(each).read() for each in tar}  # pyright: ignore
    keys = [name.partition(".")[0] for name in files if name.endswith(".txt")]
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for number, key in enumerate(keys):
            near = [keys[(number + step) % len(keys)] for step in range(1 + number % 3)]
            texts = [files[f"{each}.txt"].decode() for each in near]
            image = next(n for n in files if n.startswith(f"{key}.") and n[-3:] in ("jpg", "png"))
            for name, content in (
                (image, files[image]),
                (f"{key}.json", json.dumps({"texts": texts}).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
