"""Training from a cache's views against training with the reference at work in every step."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from rhocache_schemas.dataset.augmentation import ViewDraws, draw_view
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.views import Views
from rhocache_trainer import load_config, train
from rhocache_trainer.data import dataset as training_data
from rhocache_workers.run.driver import score

EXAMPLES = Path(__file__).parents[2] / "examples"
VIEWS = {"count": 3, "seed": 9, "scale": [0.3, 1.0], "flip": 0.5, "color_jitter": 0.4}
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another size, colour and dimension than the model that is trained."""
    from rhocache_trainer.model.clip import build_model

    torch.manual_seed(1)
    vision = MODEL["vision_cfg"] | {"image_size": 32}  # pyright: ignore[reportOperatorIssue]
    model = build_model(
        {**MODEL, "embed_dim": 24, "vision_cfg": vision},
        preprocess={"mean": (0.3, 0.4, 0.5), "std": (0.2, 0.3, 0.2)},
    )
    folder = tmp_path_factory.mktemp("reference")
    model.export(folder)
    return folder


@pytest.fixture(scope="module")
def job(reference_folder: Path) -> dict[str, Any]:
    return {
        "dataset": str(EXAMPLES / "openclipart"),
        "shards": "00000.tar",
        "limit": 96,
        "reference": {"model": f"local-dir:{reference_folder}"},
        "views": VIEWS,
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, job: dict[str, Any]) -> Path:
    out = tmp_path_factory.mktemp("views") / "cache"
    score(ScoreSpec.model_validate(job | {"output": str(out)}), here=True)
    return out


@pytest.fixture
def config(tmp_path: Path, cache: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        json.dumps(
            {
                "output": str(tmp_path / "run"),
                "data": {
                    "dataset": str(EXAMPLES / "openclipart"),
                    "shards": "00000.tar",
                    "on_missing": "skip",
                },
                "model": MODEL,
                "objective": {"name": "drrho", "temperature": "learnable"},
                "cache": str(cache),
                "batch_size": 16,
                "epochs": 4,
                "log_every": 1,
                "device": "cpu",
            }
        )
    )
    return path


class Live:
    """The reference, run on the very views that a batch shows. It exists in these tests alone."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.model.eval()
        self.seen: set[int] = set()
        self.captions: set[int] = set()

    @torch.no_grad()
    def __call__(self, examples: list[Any], skipped: dict[str, int]) -> Any:
        batch = collate(examples, skipped)
        shown = torch.stack([self.transform(self.view(example)) for example in examples])
        tokens = self.tokenizer([self.caption(example) for example in examples])
        return replace(
            batch,
            reference_image=self.model.encode_image(shown, normalize=True),
            reference_text=self.model.encode_text(tokens, normalize=True),
        )

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
        from rhocache_schemas.dataset.view import _OPERATIONS  # tested against torchvision's

        for operation, amount in view.operations:
            image = _OPERATIONS[operation](image, amount)
        return image


collate = training_data.collate


def steps(folder: Path) -> dict[str, np.ndarray]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        name: np.array([line[name] for line in lines if name in line])
        for name in ("objective", "tau", "gradient_norm")
    }


@pytest.mark.parametrize("order", ["auto", "random"])
def test_a_training_from_views_is_one_with_the_reference_at_work(
    order: str,
    config: Path,
    reference_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = [f"replay.order={order}"]
    train(load_config(config, changes))
    live = Live(reference_folder)
    monkeypatch.setattr(training_data, "collate", live)
    train(load_config(config, [*changes, f"output={tmp_path / 'live'}"]))
    cached, worked = steps(tmp_path / "run"), steps(tmp_path / "live")
    assert live.seen == {0, 1, 2}
    assert len(cached["objective"]) == 24
    for name, values in cached.items():
        np.testing.assert_allclose(values, worked[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("order", ["auto", "random"])
def test_a_training_from_captions_is_one_with_the_reference_at_work(
    order: str,
    config: Path,
    job: dict[str, Any],
    reference_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And each is steered by its own: a training on the first alone is another."""
    data = tmp_path / "data"
    recaptioned(data / "00000.tar")
    asked = {"dataset": str(data), "output": str(tmp_path / "three"), "captions": 3}
    asked |= {"caption_field": "texts", "dtype": "float32"}
    score(ScoreSpec.model_validate(job | asked), here=True)
    changes = [f"data.dataset={data}", "data.caption_field=texts", f"cache={tmp_path / 'three'}"]
    changes.append(f"replay.order={order}")
    train(load_config(config, changes))
    first = ["replay.captions=1", f"output={tmp_path / 'first'}"]
    train(load_config(config, [*changes, *first]))
    live = Live(reference_folder)
    monkeypatch.setattr(training_data, "collate", live)
    train(load_config(config, [*changes, f"output={tmp_path / 'live'}"]))
    cached, worked, alone = (steps(tmp_path / name) for name in ("run", "live", "first"))
    assert (live.seen, live.captions) == ({0, 1, 2}, {0, 1, 2})
    for name, values in cached.items():
        np.testing.assert_allclose(values, worked[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(cached["objective"] - alone["objective"]).max() > 2e-3


def recaptioned(path: Path) -> None:
    """The pairs with one to three captions, each an other one's beside its own."""
    with tarfile.open(EXAMPLES / "openclipart" / "00000.tar") as tar:
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


def test_augmenting_anew_is_steered_otherwise(config: Path, tmp_path: Path) -> None:
    train(load_config(config))
    train(load_config(config, ["replay.order=none", f"output={tmp_path / 'off'}"]))
    replayed, augmented = steps(tmp_path / "run"), steps(tmp_path / "off")
    assert np.abs(replayed["objective"] - augmented["objective"]).max() > 2e-3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["replay.views=4"], "replay.views=4, but the cache of .* holds 3 views of each image"),
        (["replay.captions=2"], "replay.captions=2, but the cache of .* holds 1 caption of each"),
        (["objective=clip", "cache=null", "replay.order=cycle"], "set cache to its location"),
    ],
)
def test_views_that_are_not_there_are_named(config: Path, changes: list[str], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        train(load_config(config, changes))
