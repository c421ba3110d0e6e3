"""Towers that a cache's embeddings stand in for, against the same towers run frozen beside."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from made_pairs import COLOURS, MadePair, write_csv, write_folder, write_parquet
from open_clip.transform import PreprocessCfg, image_transform_v2
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import FingerprintMismatch, InvalidInput, PairMismatch
from rhocache_schemas.job.kinds.prompts import PromptsSpec
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_trainer import (
    TrainConfig,
    evaluate,
    evaluate_cache,
    evaluate_cached,
    load_cached,
    train,
    write_prompts,
)
from rhocache_trainer.training.loop import _Run
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.prompts import Prompts
from rhocache_workers.run import driver

from ..conftest import SHARDS, make_pairs, write_tar

PROGRAM = Path(__file__).parents[1] / "distributed" / "rank_runs.py"
HEADS = [{"name": "linear"}, {"name": "mlp", "hidden": 9}, {"name": "adapter", "ratio": 0.4}]
TEXT_CFG = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def reference(make_reference: Callable[[int], Path]) -> Path:
    return make_reference(3)


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Path:
    """A folder with a dataset and its cache."""
    root = tmp_path_factory.mktemp("scored")
    for shard in range(SHARDS):
        write_tar(root / "dataset" / f"{shard:05}.tar", make_pairs(shard))
    score(root, "dataset", "cache", reference)
    return root


def score(root: Path, dataset: str, cache: str, reference: Path) -> None:
    spec = ScoreSpec(
        dataset=str(root / dataset),
        output=str(root / cache),
        reference=ReferenceSpec(model=f"local-dir:{reference}"),
        batch_size=8,
        error_budget=1.0,
        metadata={},
    )
    driver.score(spec, here=True)


@pytest.fixture
def scored(tmp_path: Path, scored_once: Path) -> Path:
    return Path(shutil.copytree(scored_once, tmp_path / "scored"))


@pytest.fixture
def width(reference: Path) -> int:
    return json.loads((reference / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]


@pytest.fixture
def settings(config: dict[str, Any], scored: Path, width: int) -> dict[str, Any]:
    """Locked-image tuning on the tars, with open_clip's loss."""
    return config | {
        "data": {"dataset": str(scored / "dataset"), "shuffle_buffer": 10},
        "cached": {"cache": str(scored / "cache"), "image": "as_is"},
        "model": {"embed_dim": width, "text_cfg": TEXT_CFG},
        "loggers": [],
    }


def both(settings: dict[str, Any], head: Any = "adapter") -> dict[str, Any]:
    """Nothing but heads, with DRRHO steered by the same cache."""
    cache = settings["cached"]["cache"]
    return settings | {
        "model": None,
        "cache": cache,
        "cached": {"image": head, "text": head},
        "objective": {"name": "drrho", "rho": 1.0, "temperature": "constant"},
    }


def run(settings: dict[str, Any], **changes: Any) -> Any:
    return train(TrainConfig.model_validate(settings | changes))


def gradients(module: torch.nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss that asks something of every feature."""
    module.zero_grad()
    s = features["image_features"] @ features["text_features"].T
    torch.nn.functional.cross_entropy(10 * s, torch.arange(len(s))).backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cached", ["image", "text", "both"])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["name"])
def test_gradients_are_those_beside_a_live_frozen_tower(
    settings: dict[str, Any], config: dict[str, Any], reference: Path, cached: str, head: Any
) -> None:
    """Within the rounding of the cache's halves."""
    if cached == "both":
        settings = both(settings, head)
    else:
        given = {"cache": settings["cached"]["cache"], cached: head}
        other = {"image": settings["model"], "text": config["model"]}[cached]
        settings |= {
            "cached": given,
            "model": other | {"embed_dim": settings["model"]["embed_dim"]},
        }
    made = _Run(TrainConfig.model_validate(settings | {"batch_size": 8}))
    learner, batch = made.learner, next(iter(made.loader))
    module = learner.model.module
    (part,) = learner._parts(batch)
    found = gradients(module, learner._encode(part))

    live: Any = open_clip.create_model(f"local-dir:{reference}", output_dict=True).eval()
    preprocess: Any = image_transform_v2(
        PreprocessCfg(**live.visual.preprocess_cfg), is_train=False
    )
    pairs = {(f"{s:05}.tar", p.key): p for s in range(SHARDS) for p in make_pairs(s)}
    own = [pairs[pair.shard, pair.key] for pair in batch.pairs]
    tokens = open_clip.get_tokenizer(f"local-dir:{reference}")([pair.caption for pair in own])
    with torch.no_grad():
        image = live.encode_image(torch.stack([preprocess(open_image(p.image)) for p in own]), True)
        text = live.encode_text(tokens, True)
    given = image if cached != "text" else part[0], text if cached != "image" else part[1]
    if cached == "text":
        given = learner.normalize(given[0]), given[1]
    expected = gradients(module, module(*given))
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        scale = float(expected[name].norm()) + 1e-6
        assert float((gradient - expected[name]).norm()) < 0.01 * scale, name


RUBBISH = b"no picture at all"


def tables(folder: Path, kind: str) -> str:
    """The pairs in a dataset of that kind, each image nothing but rubbish."""
    pairs = {f"{shard:05}": make_pairs(shard) for shard in range(SHARDS)}
    for shard in pairs.values():
        for pair in shard:
            pair.image = RUBBISH
    if kind == "tars":
        for name, shard in pairs.items():
            write_tar(folder / f"{name}.tar", shard)
    elif kind == "folder":
        for name, shard in pairs.items():
            write_folder(folder / name, [MadePair(p.key, p.image, p.caption) for p in shard])
    else:
        content: Any = [
            {"image": RUBBISH, "caption": p.caption, "key": p.key, "shard": name}
            for name, shard in pairs.items()
            for p in shard
        ]
        if kind == "csv":
            write_csv(folder / "pairs.csv", content)
            shutil.rmtree(folder / "images")
            return str(folder / "pairs.csv")
        write_parquet(folder / "pairs.parquet", content)
    return str(folder)


@pytest.mark.parametrize("kind", ["tars", "parquet", "csv", "folder"])
def test_no_picture_is_opened(settings: dict[str, Any], tmp_path: Path, kind: str) -> None:
    (tmp_path / "new").mkdir()
    data = {"dataset": tables(tmp_path / "new", kind), "shuffle_buffer": 10}
    assert run(settings, data=data).steps == 12
    assert run(both(settings), data=data, output=str(tmp_path / "both")).steps == 12
    steered = {"cache": settings["cached"]["cache"], "cached": None, "objective": "drrho"}
    vision = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1}
    model = settings["model"] | {"vision_cfg": vision}
    with pytest.raises(PairMismatch, match=r"(the image is not the one|has a reference row)"):
        run(settings, data=data, output=str(tmp_path / "plain"), model=model, **steered)


def test_captions_are_compared_where_they_are_read(settings: dict[str, Any]) -> None:
    dataset = Path(settings["data"]["dataset"])
    pairs = make_pairs(1)
    pairs[4].caption += "!"
    write_tar(dataset / "00001.tar", pairs)
    with pytest.raises(PairMismatch, match=r"00001\.tar, key 0004: the caption is not the one"):
        run(settings)
    for shard in range(SHARDS):
        (dataset / f"{shard:05}.tar").write_bytes(b"no tar")
    assert run(both(settings), output=settings["output"] + "-both").steps == 12


def test_a_run_goes_on_to_the_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    for number, made in enumerate((settings, both(settings))):
        outputs = [tmp_path / f"{number}-{name}" for name in ("whole", "part")]
        run(made, output=str(outputs[0]))
        run(made, output=str(outputs[1]), max_steps=5)
        part = TrainConfig.model_validate(made | {"output": str(outputs[1])})
        train(part, resume="auto")
        one, other = (load_file(o / "model" / "cached_towers.safetensors") for o in outputs)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_ranks_train_as_one(settings: dict[str, Any], tmp_path: Path) -> None:
    """Every batch is the whole dataset, in another order on two ranks."""
    whole = {"batch_size": 24, "epochs": 3}
    runs = {"image": settings | whole, "both": both(settings) | whole}
    for name, made in runs.items():
        run(made, output=str(tmp_path / f"one-{name}"))
    turn = [made | {"output": str(tmp_path / f"two-{name}")} for name, made in runs.items()]
    store = tmp_path / "store"
    store.with_suffix(".json").write_text(json.dumps([[2, turn]]))
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), store], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in started:
        _, told = process.communicate()
        assert process.returncode == 0, told
    for name in runs:
        one, two = (
            load_file(tmp_path / f"{count}-{name}" / "model" / "cached_towers.safetensors")
            for count in ("one", "two")
        )
        torch.testing.assert_close(two, one, rtol=0, atol=2e-4)


def test_the_export_is_put_together_with_the_reference(
    settings: dict[str, Any], reference: Path, scored: Path
) -> None:
    cached = settings["cached"] | {"reference": f"local-dir:{reference}"}
    result = run(settings, cached=cached)
    whole: Any = open_clip.create_model(f"local-dir:{result.model}").eval()
    frozen: Any = open_clip.create_model(f"local-dir:{reference}").eval()
    ours = load_cached(result.model)
    pixels = torch.rand(2, 3, *ours_size(frozen))
    tokens = ours.tokenizer(["a picture", "that is red"])
    with torch.no_grad():
        assert torch.equal(whole.encode_image(pixels), frozen.encode_image(pixels))
        assert torch.equal(whole.encode_text(tokens), ours.module.encode_text(tokens))
        assert torch.equal(whole.logit_scale, ours.module.logit_scale)
    live = evaluate(result.model, str(scored / "dataset"), class_field="colour")
    found = evaluate_cached(
        result.model, str(scored / "cache"), str(scored / "dataset"), class_field="colour"
    )
    assert found.zero_shot is not None
    assert found.zero_shot.images == live.images == 24
    for name in ("image_to_text", "text_to_image"):
        one, other = (np.array(list(getattr(each, name).values())) for each in (live, found))
        assert abs(one - other).max() <= 1 / 24  # halves


def ours_size(model: Any) -> tuple[int, int]:
    size = model.visual.preprocess_cfg["size"]
    return (size, size) if isinstance(size, int) else size


def test_models_with_heads_are_evaluated_on_the_datasets_cache(
    settings: dict[str, Any], config: dict[str, Any], scored: Path, tmp_path: Path, width: int
) -> None:
    cache, dataset = str(scored / "cache"), str(scored / "dataset")
    model = run(both(settings, "mlp")).model
    assert evaluate_cached(model, cache, dataset).images == 24
    with pytest.raises(InvalidInput, match="name that with --cache"):
        evaluate(model, dataset)
    cached = {"cache": cache, "text": "linear"}
    trained = {"model": config["model"] | {"embed_dim": width}, "cached": cached}
    result = run(settings, output=str(tmp_path / "image"), **trained)
    assert evaluate_cached(result.model, cache, dataset).captions == 24
    with pytest.raises(InvalidInput, match="zero-shot accuracy needs the prompts"):
        evaluate_cached(result.model, cache, dataset, class_field="colour")


def test_embeddings_as_they_are_are_as_good_as_the_reference(
    settings: dict[str, Any], scored: Path, reference: Path
) -> None:
    classes: Any = {"class_field": "colour", "templates": "simple"}
    cache, dataset = str(scored / "cache"), str(scored / "dataset")
    write_prompts(dataset, str(scored / "prompts"), **classes)
    score(scored, "prompts", "prompts-cache", reference)
    classes |= {"prompts_cache": str(scored / "prompts-cache")}
    model = run(
        both(settings, "as_is") | {"objective": "clip", "cache": None},
        cached={"cache": cache, "image": "as_is", "text": "as_is"},
    ).model
    found = evaluate_cached(model, cache, dataset, **classes)
    same = {"model": ""}
    as_is = evaluate_cache(cache, dataset, **classes)
    assert found.model_copy(update=same) == as_is.model_copy(update=same)
    # A table of the same classes, whose own templates are told.
    (scored / "classes.txt").write_text("\n".join(COLOURS))
    asked = {"classes": str(scored / "classes.txt"), "templates": "simple"}
    table = PromptsSpec(cache=cache, output=str(scored / "table"), metadata={}, **asked)
    make_table(table, Prompts, here=True)
    classes |= {"prompts_cache": table.output, "templates": "openai"}
    by_table = evaluate_cached(model, cache, dataset, **classes)
    assert by_table.templates == "simple"
    assert by_table.zero_shot == pytest.approx(found.zero_shot)


def test_another_references_cache(
    settings: dict[str, Any], cache: Path, make_reference: Callable[[int], Path]
) -> None:
    model = run(both(settings)).model
    with pytest.raises(FingerprintMismatch, match="was made by local-dir:/gone, and the model was"):
        evaluate_cached(model, str(cache), settings["data"]["dataset"])
    other = settings["model"] | {"embed_dim": 3}
    with pytest.raises(InvalidInput, match="as_is leaves the cached embeddings"):
        run(settings, model=other, output=settings["output"] + "-2")
    cached = settings["cached"] | {"reference": f"local-dir:{make_reference(4)}"}
    odd = settings["model"] | {"quick_gelu": True}
    with pytest.raises(InvalidInput, match="differ in quick_gelu"):
        run(settings, model=odd, cached=cached, output=settings["output"] + "-3")
    with pytest.raises(InvalidInput, match="holds no model on cached embeddings"):
        load_cached(settings["output"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cached": {}}, "which towers the cache stands in for"),
        ({"cached": {"image": "as_is"}}, "set cached.cache to that of the embeddings"),
        ({"cached": {"image": "as_is", "cache": "c", "width": 3}}, "width is the other tower's"),
        ({"cached": {"image": "mlp", "cache": "c", "reference": "r"}}, "is for one tower as_is"),
        ({"cached": {"image": "resnet", "cache": "c"}}, "'as_is', 'linear', 'mlp', 'adapter'"),
        ({"cached": {"image": "mlp", "text": "mlp", "cache": "c"}}, "both towers are cached: of"),
        ({"model": None}, "say which tower is trained"),
        ({"model": None, "cached": None}, "model: say what is trained"),
        ({"freeze": {"image": 0}}, "freeze.image: this tower is cached"),
        ({"objective": "classify"}, "classify trains an image tower; leave cached out"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, Any], changes: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate(settings | changes)
