"""Classifiers trained by the whole loop, with every risk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_pairs import COLOURS, PAIRS, SHARDS, make_pairs
from safetensors.torch import load_file

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import InvalidInput, MissingPair, TrainingError
from rhocache_trainer import TrainConfig, TrainResult, load_classifier, train
from rhocache_trainer.model.clip import normalizer

N = SHARDS * PAIRS
RISKS: dict[str, dict[str, Any]] = {
    "mean": {},
    "kl": {"risk": {"name": "kl", "tau": 1.0}},
    "kl ball": {"risk": {"name": "kl_ball", "rho": 2.0}},
    "kl ball, learned": {"risk": {"name": "kl_ball", "rho": 2.0, "form": "learned"}},
    "cvar": {"risk": {"name": "cvar", "alpha": 0.5}},
    "cvar, dual": {"risk": {"name": "cvar", "k": 12, "form": "dual"}},
    "chi square": {"risk": {"name": "chi_square", "rho": 2.0}},
    "rho-loss": {"filter_ratio": 0.5},
}


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    """A reference's, which finds one colour in four hard."""
    rows = [
        {"shard": f"{s:05}.tar", "key": p.key, "loss": 0.1 + (n % 4 == 0)}
        for s in range(SHARDS)
        for n, p in enumerate(make_pairs(s))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "losses.parquet")
    return tmp_path / "losses.parquet"


@pytest.fixture
def settings(config: dict[str, Any], losses: Path) -> dict[str, Any]:
    model = {name: value for name, value in config["model"].items() if name != "text_cfg"}
    return config | {
        "model": model,
        "data": config["data"] | {"caption_field": "colour"},
        "objective": {"name": "classify", "reference": str(losses)},
    }


def run(settings: dict[str, Any], resume: Any = "never", **objective: Any) -> TrainResult:
    made = settings | {"objective": settings["objective"] | objective}
    return train(TrainConfig.model_validate(made), resume=resume)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(Path(result.model) / "classifier.safetensors")


def log_of(result: TrainResult) -> list[dict[str, float]]:
    return [
        json.loads(line) for line in (Path(result.output) / "log.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("name", RISKS)
def test_it_learns_the_colours(settings: dict[str, Any], name: str):
    rate = {"optimizer": {"lr": 5e-3}, "augmentation": {}}
    result = run(settings | {"epochs": 10, "batch_size": 6} | rate, **RISKS[name])
    log = log_of(result)
    assert result.tau is None
    assert result.steps == len(log) == 10 * (N // (12 if name == "rho-loss" else 6))
    assert log[-1]["objective"] == result.objective
    assert sum(record["accuracy"] for record in log[-5:]) / 5 > 0.9
    assert "tau" not in log[-1]
    right = 0
    model = load_classifier(result.model)
    for pair in (each for shard in range(SHARDS) for each in make_pairs(shard)):
        image = open_image(pair.image).convert("RGB").resize((32, 32))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        ready = normalizer(model.preprocess_cfg, torch.device("cpu"))(pixels)
        guess = model.tokenizer.names[int(model.module(ready)["logits"].argmax())]
        right += guess == pair.caption.rpartition(" ")[2]
    assert right / N > 0.9


@pytest.mark.parametrize("name", RISKS)
def test_stopping_and_going_on_is_the_same_to_the_bit(
    settings: dict[str, Any], tmp_path: Path, name: str
):
    """The risk's state included: every sample's loss, averages, and what is learned."""
    whole = run(settings, **RISKS[name])
    part = settings | {"output": str(tmp_path / "part")}
    for stop in (2, 6):  # within an epoch, and at its end
        run(part | {"max_steps": stop}, resume="auto", **RISKS[name])
    result = run(part, resume="auto", **RISKS[name])
    assert result.steps == whole.steps
    states = [
        torch.load(max(Path(each.output).glob("checkpoints/*.pt")))["learner"]
        for each in (whole, result)
    ]
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    assert all(torch.equal(each, weights(whole)[key]) for key, each in weights(result).items())
    timeless = [
        [{k: v for k, v in record.items() if k != "pairs_per_second"} for record in log_of(each)]
        for each in (whole, result)
    ]
    assert timeless[0] == timeless[1]


def test_the_export_is_open_clips_tower_and_a_layer(settings: dict[str, Any]):
    result = run(settings | {"max_steps": 2, "ema": 0.5})
    described = json.loads((Path(result.model) / "classifier.json").read_text())
    assert described["classes"] == sorted(COLOURS)
    text = {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1}
    clip = open_clip.model.CLIP(
        settings["model"]["embed_dim"], described["model_cfg"]["vision_cfg"], text
    )
    tensors = weights(result)
    tower = {k.removeprefix("visual."): v for k, v in tensors.items() if k.startswith("visual.")}
    clip.visual.load_state_dict(tower)
    clip.visual.eval()
    images = torch.rand(3, 3, 32, 32)
    expected = clip.visual(images) @ tensors["head.weight"].T + tensors["head.bias"]
    torch.testing.assert_close(load_classifier(result.model).module(images)["logits"], expected)
    average = load_file(Path(result.output) / "model-ema" / "classifier.safetensors")
    assert average.keys() == tensors.keys()
    with pytest.raises(InvalidInput, match=r"holds no classifier: classifier\.json"):
        load_classifier(result.output)


def test_it_goes_on_from_an_exported_model_and_freezes_its_tower(
    config: dict[str, Any], settings: dict[str, Any], tmp_path: Path
):
    clip = train(TrainConfig.model_validate(config | {"output": str(tmp_path / "clip")}))
    before = load_file(Path(clip.model) / "open_clip_model.safetensors")
    further = {"model": f"local-dir:{clip.model}", "freeze": {"image": 0}}
    after = weights(run(settings | further))
    tower = [name for name in after if name.startswith("visual.")]
    assert tower
    assert all(torch.equal(after[name], before[name]) for name in tower)
    with pytest.raises(InvalidInput, match="a classifier has no text tower"):
        run(settings | {"freeze": {"text": 1}, "output": str(tmp_path / "text")})


def test_a_run_is_not_resumed_with_other_losses(settings: dict[str, Any], losses: Path):
    run(settings | {"max_steps": 1})
    table = pq.read_table(losses)
    changed = pa.array([value.as_py() + 1 for value in table["loss"]])
    pq.write_table(table.set_column(2, "loss", changed), losses)
    with pytest.raises(TrainingError, match=r"on other pairs: .* losses have changed"):
        run(settings, resume="auto")


def test_losses_that_lack_samples_are_refused_before_anything_is_written(
    settings: dict[str, Any], losses: Path
):
    pq.write_table(pq.read_table(losses).slice(3), losses)
    with pytest.raises(MissingPair, match=r"no loss for 3 of 24 samples: shard 00000\.tar"):
        run(settings)
    assert not Path(settings["output"]).exists()


def test_parts_of_a_batch_train_the_same(settings: dict[str, Any], tmp_path: Path):
    whole = weights(run(settings, **RISKS["cvar"]))
    parts = {"accumulation": {"parts": 2}, "output": str(tmp_path / "parts")}
    torch.testing.assert_close(
        weights(run(settings | parts, **RISKS["cvar"])), whole, rtol=0, atol=1e-5
    )
