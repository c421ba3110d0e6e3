"""An exported model is one of open_clip's, down to its preprocessing and tokenizer."""

import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.model.clip import build_model, normalizer

from ..conftest import make_pairs


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger().setLevel(logging.ERROR)


def test_open_clip_loads_what_was_exported(tmp_path: Path, model_cfg: dict):
    preprocess = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "resize_mode": "squash"}
    model = build_model(model_cfg, preprocess=preprocess)
    model.export(tmp_path / "model")

    name = f"local-dir:{tmp_path / 'model'}"
    loaded, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    assert tokenizer.context_length == 12
    assert {k: loaded.visual.preprocess_cfg[k] for k in preprocess} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in preprocess.items()
    }
    assert "Resize(size=(32, 32)" in str(transform)
    model.module.eval()
    loaded.eval()
    images, tokens = torch.rand(2, 3, 32, 32), tokenizer(["a red picture", "something else"])
    with torch.no_grad():
        ours, theirs = model.module(images, tokens), loaded(images, tokens)
    assert torch.equal(ours["image_features"], theirs[0])
    assert torch.equal(ours["text_features"], theirs[1])
    assert torch.equal(ours["logit_scale"], theirs[2])


def test_an_export_can_be_trained_on(tmp_path: Path, model_cfg: dict):
    model = build_model(model_cfg)
    model.export(tmp_path / "model")
    again = build_model(f"local-dir:{tmp_path / 'model'}")
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name])
    assert again.model_cfg == model_cfg


def test_normalisation_is_that_of_open_clips_transform(model_cfg: dict):
    model = build_model(model_cfg, preprocess={"resize_mode": "squash"})
    image = open_image(make_pairs(0)[0].image).convert("RGB").resize((32, 32))
    transform = image_transform_v2(PreprocessCfg(**model.preprocess_cfg), is_train=False)
    pixels = torch.from_numpy(np.array(image))
    ours = normalizer(model.preprocess_cfg, torch.device("cpu"))(pixels.permute(2, 0, 1)[None])
    torch.testing.assert_close(ours[0], transform(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B-33", "open_clip cannot make ViT-B-33: .*ViT-B-33"),
        ("local-dir:/nowhere", "open_clip cannot make local-dir:/nowhere: no folder /nowhere"),
        ({"embed_dim": 8}, "open_clip cannot make inline model: .*text_cfg"),
        (
            {"embed_dim": 8, "vision_cfg": {"depth": 3}, "text_cfg": {}},
            "open_clip cannot make inline model: .*depth",
        ),
    ],
)
def test_no_such_model(model: str | dict, message: str):
    with pytest.raises(InvalidInput, match=message) as caught:
        build_model(model)
    assert len(str(caught.value)) < 300


def test_a_folder_without_weights_is_no_start(tmp_path: Path, model_cfg: dict):
    build_model(model_cfg).export(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="has no weights"):
        build_model(f"local-dir:{tmp_path}")


def test_an_unknown_preprocess_setting(model_cfg: dict):
    with pytest.raises(InvalidInput, match="unknown colour"):
        build_model(model_cfg, preprocess={"colour": 1})


def test_weights_of_every_kind_begin_a_training(
    tmp_path: Path, model_cfg: dict, caplog: pytest.LogCaptureFixture
):
    model = build_model(model_cfg)
    folder = tmp_path / "my-quickgelu-run"
    model.export(folder)
    (folder / "open_clip_model.safetensors").unlink()
    state = {f"module.{name}": each for name, each in model.module.state_dict().items()}
    torch.save({"model": state, "loss": np.float32(1)}, folder / "checkpoint.pt")
    with caplog.at_level(logging.WARNING):
        again = build_model(f"local-dir:{folder}")
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name])
    assert "trained with QuickGELU" in caplog.text

    torch.save({"model": model.module}, folder / "checkpoint.pt")
    with pytest.raises(InvalidInput, match="re-save the model's state_dict") as caught:
        build_model(f"local-dir:{folder}")
    assert "weights_only" not in str(caught.value)
