"""``python architecture.py NAME``: load an architecture's random weights twice, and compare.

Once by open_clip alone, once as encoders have it. Prints a JSON object. Works in a folder where
hub.py has put what the architecture would take from a hub; weights lie beside that for a while.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.plan.flops import Outline
from rhocache_workers.reference.model import load_reference

CAPTIONS = [
    "a cat",
    "a photo of two cats on the mat by the door",
    "word " * 20,
    "word " * 200,
    "door",
]
WEIGHTS = Path("weights.pt")


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    shapes = ((300, 400, 3), (224, 224, 3), (500, 180, 3))
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def make_weights(name: str) -> None:
    """Random ones that leave nothing at zero, as some layers begin."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.save(model.state_dict(), WEIGHTS)


@torch.inference_mode()
def open_clips_own(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    made = open_clip.create_model_from_pretrained(name, str(WEIGHTS))
    model, preprocess = made[0].eval(), made[1]
    images = torch.stack([preprocess(picture) for picture in pictures()])
    texts = open_clip.get_tokenizer(name)(CAPTIONS)
    return model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)


def main(name: str) -> None:
    logging.disable(logging.WARNING)
    outline = Outline(name)
    outline.text_lengths(CAPTIONS)
    flops = outline.image_flops(), outline.text_flops(outline.context_length)
    make_weights(name)
    own = open_clips_own(name)
    reference = load_reference(ReferenceSpec(model=name, pretrained=str(WEIGHTS)))
    assert reference.context_length == outline.context_length
    towers = Towers(reference, 16)
    found = (
        towers.images([reference.preprocess(picture) for picture in pictures()]),
        towers.texts(reference.tokenizer(CAPTIONS)),
    )
    differences = [float((a - b).abs().max()) for a, b in zip(found, own, strict=True)]
    told = {
        "context": reference.context_length,
        "trims": reference.image_tower.trims,
        "cuts": reference.text_tower.cuts,
        "image_difference": differences[0],
        "text_difference": differences[1],
        "image_gflop": flops[0] / 1e9,
        "text_gflop": flops[1] / 1e9,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
