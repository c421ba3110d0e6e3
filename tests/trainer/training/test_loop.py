"""Runs of a few steps through the whole loop."""

import json
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from caches import flip_index
from PIL import Image
from safetensors.torch import load_file

from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheNotFound,
    InvalidInput,
    PairMismatch,
    TrainingError,
)
from rhocache_trainer import TrainConfig, train

from ..conftest import PAIRS, SHARDS, make_pairs, write_tar

STEPS = SHARDS * PAIRS // 4 * 2  # batches of 4, two epochs

OBJECTIVES = {
    "clip": {"objective": "clip"},
    "siglip": {"objective": "siglip"},
    "global": {"objective": {"name": "global", "rho": 1.0}},
    "individual": {"objective": {"name": "global", "version": "v2", "rho": 1.0, "tau_lr": 1e-2}},
    "drrho": {"objective": {"name": "drrho", "rho": 1.0, "tau_lr": 1e-2}},
    "distill": {"objective": "distill"},
    "drrho+distill": {"objective": {"name": "drrho+distill", "rho": 1.0}},
    "jest": {"objective": {"name": "jest", "filter_ratio": 0.5, "reference_bias": -5}},
    "jest+distill": {
        "objective": {"name": "jest+distill", "filter_ratio": 0.5, "reference_bias": -5}
    },
}


def settings_of(name: str, config: dict, cache: Path) -> dict:
    made = config | OBJECTIVES[name]
    if name in ("drrho", "distill", "drrho+distill", "jest", "jest+distill"):
        made |= {"cache": str(cache)}
    if name in ("siglip", "jest", "jest+distill"):
        made |= {"model": config["model"] | {"init_logit_bias": -10, "init_logit_scale": 2.3}}
    return made


@pytest.fixture(params=OBJECTIVES)
def settings(request, config: dict, cache: Path) -> dict:
    return settings_of(request.param, config, cache)


def run(settings: dict, resume="never", **changes):
    return train(TrainConfig.model_validate(settings | changes), resume=resume)


def weights(result) -> dict[str, torch.Tensor]:
    return load_file(Path(result.model) / "open_clip_model.safetensors")


def records(result) -> list[dict]:
    return [
        json.loads(line) for line in (Path(result.output) / "log.jsonl").read_text().splitlines()
    ]


def test_every_objective_trains_logs_and_exports(settings: dict):
    result = run(settings)
    steps = STEPS // 2 if "filter_ratio" in settings["objective"] else STEPS
    assert (result.steps, result.epochs, result.pairs) == (steps, 2, 4 * steps)
    log = records(result)
    assert [record["step"] for record in log] == list(range(1, steps + 1))
    assert all(math.isfinite(value) for record in log for value in record.values())
    assert log[-1]["objective"] == result.objective
    assert list((Path(result.output) / "tensorboard").glob("events*"))
    model = open_clip.create_model(f"local-dir:{result.model}")
    assert float(1 / model.logit_scale.detach().exp()) == pytest.approx(result.tau, rel=0.02)


def newest(result) -> Path:
    return max(Path(result.output).glob("checkpoints/*.pt"))


def rows(result) -> list[dict]:
    """What the newest checkpoint holds of each pair."""
    files = sorted(newest(result).parent.glob(f"{newest(result).stem}.*.rows"))
    return [torch.load(file)["tables"] for file in files]


def test_stopping_and_going_on_is_the_same_to_the_bit(settings: dict, tmp_path: Path):
    whole = run(settings)
    part = settings | {"output": str(tmp_path / "part")}
    for stop in (2, 6):  # within an epoch, and at its end
        run(part, resume="auto", max_steps=stop)
    result = run(part, resume="auto")
    assert result.steps == whole.steps
    assert all(
        torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(result).items()
    )
    one, other = (torch.load(newest(r)) for r in (whole, result))
    torch.testing.assert_close(one["learner"], other["learner"], rtol=0, atol=0)
    torch.testing.assert_close(rows(whole), rows(result), rtol=0, atol=0)
    timeless = [
        [{k: v for k, v in record.items() if k != "pairs_per_second"} for record in records(r)]
        for r in (whole, result)
    ]
    assert timeless[0] == timeless[1]


SCHEDULE = [{"at": 0.25, "weights": [1, 0]}, {"at": 0.75, "weights": [0, 1]}]


@pytest.mark.parametrize("name", ["drrho", "distill", "jest+distill"])
def test_a_schedule_of_references_goes_on_from_where_it_was(
    name: str, config: dict, cache: Path, caches: list[str], tmp_path: Path
):
    settings = settings_of(name, config, cache) | {"cache": caches}
    moving = settings | {"references": {"schedule": SCHEDULE}}
    whole = run(moving)
    part = moving | {"output": str(tmp_path / "part")}
    middle = whole.steps // 2
    run(part, resume="auto", max_steps=middle)
    result = run(part, resume="auto")
    assert result.steps == whole.steps > middle
    assert all(
        torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(result).items()
    )
    staying = run(settings | {"output": str(tmp_path / "mean")})
    assert not torch.equal(weights(staying)["visual.proj"], weights(whole)["visual.proj"])
    with pytest.raises(TrainingError, match="other settings for references"):
        run(part, resume="auto", references={"combine": "min"})


def test_a_schedule_ends_at_the_last_reference(config: dict, caches: list[str], tmp_path: Path):
    """One whose weights are 0 has no part."""
    settings = config | {"objective": {"name": "drrho", "rho": 1.0}}
    stages = [{"at": 0, "weights": [0, 1]}]
    two = run(settings, cache=caches, references={"schedule": stages})
    one = run(settings | {"output": str(tmp_path / "one")}, cache=caches[1])
    torch.testing.assert_close(weights(two), weights(one), rtol=0, atol=1e-5)


def test_a_run_that_died_goes_on_from_its_checkpoint(config: dict, tmp_path: Path, monkeypatch):
    """What was logged after the checkpoint is dropped, and done again."""
    whole = run(config)
    part = config | {"output": str(tmp_path / "part"), "checkpoint_every": 5}
    died = run(part, max_steps=7)
    folder = Path(died.output)
    newest(died).unlink()  # of step 7; that of step 5 was kept
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "obj')  # cut short
    result = run(part, resume="auto")
    assert [record["step"] for record in records(result)] == list(range(1, STEPS + 1))
    assert all(
        torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(result).items()
    )


INTERRUPTED = """
import os, signal, sys
from rhocache_trainer import load_config, train
from rhocache_trainer.training.run_log import RunLog

def interrupt(log, step):
    if step == 3:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))

RunLog.advance = interrupt
train(load_config(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("name", "code", "told"), [("SIGINT", 1, "KeyboardInterrupt"), ("SIGTERM", 0, "")]
)
def test_an_interrupted_run_is_saved_first(
    config: dict, tmp_path: Path, name: str, code: int, told: str
):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "config.yaml"), name],
        capture_output=True,
        text=True,
    )
    assert told in done.stderr
    assert (done.returncode == 0) == (code == 0)
    assert not (tmp_path / "run" / "model").exists()
    result = run(config, resume="auto")
    assert (result.steps, result.pairs) == (STEPS, 4 * (STEPS - 3))


def test_a_finished_run_resumes_to_nothing_more(config: dict):
    first = run(config)
    again = run(config, resume="auto")
    assert (again.steps, again.pairs) == (first.steps, 0)
    assert again.objective == first.objective


def test_the_same_seed_gives_the_same_data_whatever_the_objective(config: dict, cache: Path):
    """Plain and steered runs see the same pairs in the same order, under the same crops."""
    from rhocache_trainer.training.loop import _Run

    drrho = config | {"objective": {"name": "drrho", "rho": 1.0}, "cache": str(cache)}
    loaders = [_Run(TrainConfig.model_validate(s)).loader for s in (config, drrho)]
    for one, other in islice(zip(*loaders, strict=True), STEPS):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.image, other.image)


def test_a_run_is_not_overwritten_by_accident(config: dict):
    run(config, max_steps=1)
    with pytest.raises(TrainingError, match="already holds a run"):
        run(config)


def test_a_run_is_not_resumed_with_other_settings(config: dict):
    run(config, max_steps=1)
    with pytest.raises(TrainingError, match="other settings for batch_size, seed"):
        run(config, resume="auto", seed=5, batch_size=6)


def test_a_run_is_not_resumed_on_other_pairs(config: dict, dataset: Path):
    run(config, max_steps=1)
    write_tar(dataset / "00000.tar", make_pairs(0)[1:])
    with pytest.raises(TrainingError, match="on other pairs"):
        run(config, resume="auto")


def test_a_damaged_checkpoint(config: dict):
    result = run(config, max_steps=2, checkpoint_every=1, keep_checkpoints=2)
    kept = sorted(Path(result.output).glob("checkpoints/*"))
    assert [path.name for path in kept] == ["step-00000001.pt", "step-00000002.pt"]
    kept[1].write_bytes(kept[1].read_bytes()[:1000])
    again = run(config, resume="auto", max_steps=2)
    assert again.pairs == 4, "from the one before"
    for path in kept:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"step-00000002\.pt is not a readable checkpoint"):
        run(config, resume="auto")


def test_more_pairs_in_a_batch_than_there_are(config: dict):
    with pytest.raises(TrainingError, match="24 usable pairs are fewer than batch_size=25"):
        run(config, batch_size=25)


def test_a_changed_pair_stops_the_run_or_is_counted(config: dict, dataset: Path, cache: Path):
    pairs = make_pairs(1)
    pairs[2].caption = "something else"
    write_tar(dataset / "00001.tar", pairs)
    settings = config | {"objective": {"name": "drrho", "rho": 1.0}, "cache": str(cache)}
    with pytest.raises(PairMismatch, match=r"00001\.tar, key 0002"):
        run(settings)
    result = run(settings, data=config["data"] | {"on_missing": "skip"})
    assert set(result.skipped) == {"pair-mismatch"}
    assert result.steps == STEPS


def test_a_damaged_index_is_named(config: dict, cache: Path):
    with pytest.raises(CacheCorrupt, match=flip_index(cache)):
        run(config, objective="drrho", cache=str(cache))


def test_no_cache_there(config: dict, tmp_path: Path):
    with pytest.raises(CacheNotFound):
        run(config, objective="drrho", cache=str(tmp_path / "nowhere"))


def test_a_run_that_diverges_says_so(config: dict):
    with pytest.raises(TrainingError, match=r"step \d+: the objective is nan"):
        run(config, optimizer={"lr": 1e30, "warmup": 0.0, "clip_grad_norm": None})


def test_bfloat16(settings: dict):
    assert math.isfinite(run(settings, precision="bf16", max_steps=3).objective)


def test_temperatures_and_vectors_have_no_decay_and_tau_its_own_rate(config: dict, cache: Path):
    from rhocache_trainer.training.loop import _Run

    drrho = {"objective": {"name": "drrho", "rho": 1.0, "tau_lr": 0.02}, "cache": str(cache)}
    made = _Run(TrainConfig.model_validate(config | drrho)).learner
    weights, temperature = made.optimizers
    matrices, vectors = weights.param_groups
    assert matrices["weight_decay"] > 0
    assert all(parameter.ndim >= 2 for parameter in matrices["params"])
    assert vectors["weight_decay"] == temperature.param_groups[0]["weight_decay"] == 0
    assert all(parameter.ndim < 2 for parameter in vectors["params"])
    assert len(temperature.param_groups[0]["params"]) == 1
    assert temperature.param_groups[0]["initial_lr"] == 0.02


def test_a_batch_in_parts_trains_the_same(config: dict, cache: Path, tmp_path: Path):
    drrho = settings_of("drrho", config, cache)
    whole = weights(run(drrho))
    for recompute in (False, True):
        parts = {"accumulation": {"parts": 2, "recompute": recompute}}
        result = run(drrho | parts | {"output": str(tmp_path / f"parts-{recompute}")})
        torch.testing.assert_close(weights(result), whole, rtol=0, atol=1e-5)


def test_a_frozen_tower_stays(config: dict):
    before = weights(run(config | {"output": config["output"] + "-0"}, optimizer={"lr": 1e-30}))
    after = weights(run(config, freeze={"image": 0}))
    moved = {
        name.partition(".")[0]
        for name in after
        if not torch.allclose(after[name], before[name], rtol=0, atol=1e-12)
    }
    assert "visual" not in moved
    assert "transformer" in moved
    with pytest.raises(InvalidInput, match="freeze leaves nothing"):
        run(
            config | {"output": config["output"] + "-frozen"},
            freeze={"image": 0, "text": 0},
            objective={"name": "global", "rho": 1.0},
        )


def test_averaged_weights(config: dict):
    """Two steps: the average of what each of them left."""
    steps = [run(config | {"output": f"{config['output']}-{n}"}, max_steps=n) for n in (1, 2)]
    result = run(config, max_steps=2, ema=0.75)
    first, second = (weights(each) for each in steps)
    average = load_file(Path(result.output) / "model-ema" / "open_clip_model.safetensors")
    assert torch.equal(weights(result)["visual.proj"], second["visual.proj"])
    torch.testing.assert_close(
        average["visual.proj"], 0.75 * first["visual.proj"] + 0.25 * second["visual.proj"]
    )


@pytest.mark.parametrize("parts", [1, 2])
def test_statistics_move_once_a_step(config: dict, cache: Path, model_cfg: dict, parts: int):
    """BatchNorm's, where JEST scores a super-batch, and where parts are encoded twice."""
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    model = model_cfg | {"vision_cfg": resnet, "init_logit_bias": -5}
    objective = {"name": "jest", "filter_ratio": 0.5, "reference_bias": -5}
    settings = config | {"model": model, "objective": objective, "cache": str(cache)}
    trained = weights(run(settings, max_steps=2, accumulation={"parts": parts}))
    assert int(trained["visual.bn1.num_batches_tracked"]) == 2 * parts


def test_a_compiled_model_trains_the_same(config: dict):
    plain = weights(run(config, max_steps=3))
    compiled = run(config | {"output": config["output"] + "-c"}, max_steps=3, compile="aot_eager")
    torch.testing.assert_close(weights(compiled), plain, rtol=0, atol=1e-5)


def test_what_steers_is_told(config: dict, cache: Path):
    result = run(settings_of("drrho", config, cache))
    log = records(result)
    assert all(0 < record["effective_sample_size"] <= 1 for record in log)
    assert all(record["delta_p05"] <= record["delta_p50"] <= record["delta_p95"] for record in log)
    heaviest = json.loads((Path(result.output) / "heaviest.json").read_text())
    assert heaviest == sorted(heaviest, key=lambda pair: -pair["weight"])
    made = {(f"{s:05}.tar", p.key): p.caption for s in range(SHARDS) for p in make_pairs(s)}
    for pair in heaviest:
        assert made[pair["shard"], pair["key"]] == pair["caption"]
        with Image.open(Path(result.output) / "heaviest" / pair["picture"]) as picture:
            assert picture.size == (32, 32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective": "siglip"}, "siglip needs a model with a logit bias"),
        ({"objective": {"name": "distill", "feature_weight": 1.0}}, "16 numbers.*reference's 6"),
        (
            {"objective": {"name": "jest", "reference_bias": -10}},
            "jest needs a model with a logit bias",
        ),
    ],
)
def test_an_objective_that_does_not_fit(config: dict, cache: Path, changes: dict, named: str):
    cached = {} if changes.get("objective", "siglip") == "siglip" else {"cache": str(cache)}
    with pytest.raises(InvalidInput, match=named):
        run(config | changes | cached)
