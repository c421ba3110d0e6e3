from pathlib import Path

import pytest
import yaml

from rhocache_schemas.errors import InvalidDocument, InvalidInput
from rhocache_trainer import load_config
from rhocache_trainer.objectives.contrastive import DRRhoConfig
from rhocache_trainer.objectives.open_clip_losses import ClipConfig

MINIMAL = {"output": "run", "data": {"dataset": "pairs"}, "model": "ViT-B-32", "objective": "clip"}


def write(path: Path, **changes) -> Path:
    (path / "config.yaml").write_text(yaml.safe_dump(MINIMAL | changes))
    return path / "config.yaml"


def test_a_minimal_file(tmp_path: Path):
    config = load_config(write(tmp_path))
    assert config.objective == ClipConfig()
    assert config.data.on_missing == "error"


def test_overrides_are_yaml_and_reach_inside(tmp_path: Path):
    changes = [
        "objective={name: drrho, rho: 2}",
        "cache=s3://bucket/cache",
        "optimizer.lr=1e-3",
        "augmentation.scale=[0.5, 1]",
        "max_steps=null",
    ]
    config = load_config(write(tmp_path, max_steps=3), changes)
    assert config.objective == DRRhoConfig(rho=2.0)
    assert config.optimizer.lr == 1e-3
    assert config.augmentation.scale == (0.5, 1.0)
    assert config.max_steps is None


@pytest.mark.parametrize(
    "example",
    ["examples/configs/clip", "examples/configs/drrho", "experiments/icons/reference"],
)
def test_the_examples_are_valid(example: str):
    load_config(Path(__file__).parents[2] / f"{example}.yaml")


def test_the_demo_compares_like_with_like():
    """clip.yaml and drrho.yaml differ in where they write, the objective, and the cache."""
    folder = Path(__file__).parents[2] / "examples" / "configs"
    clip, drrho = (load_config(folder / f"{name}.yaml").model_dump() for name in ("clip", "drrho"))
    differing = {name for name in clip if clip[name] != drrho[name]}
    assert differing == {"output", "objective", "cache"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lr=1", r"optimiser: unknown field"),
        ("data.shard=x", r"data\.shard: unknown field"),
        ("objective={name: clip, rho: 2}", r"objective\.clip\.rho: unknown field"),
        ("objective={name: clip, sharded: true}", r"objective\.clip\.sharded: unknown field"),
        ("objective=magic", "objective: .*magic"),
        ("objective=drrho", "needs a reference cache"),
        ("cache=somewhere", "objective clip uses no cache"),
        ("cache=[]", r"cache\.several: .*at least 1 item"),
        ("references.weights=[1, 2]", "give cache as a list"),
        ("batch_size=1", "batch_size: .*greater than or equal to 2"),
        ("augmentation.scale=[1, 0.5]", "scale runs from 1.0 down to 0.5"),
        ("augmentation.scale=[0.5, 2]", "scale 2.0 is more than the whole"),
        ("optimizer.lr=fast", r"optimizer\.lr: .*valid number"),
        ("optimizer.lr=.inf", r"optimizer\.lr: .*finite"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, override: str, message: str):
    with pytest.raises(InvalidDocument, match=message) as caught:
        load_config(write(tmp_path), [override])
    assert "\n" not in str(caught.value)


def test_several_references(tmp_path: Path):
    path = write(tmp_path, objective="drrho", cache="a")
    assert load_config(path).caches == ("a",)
    changes = ["cache=[a,file:///b]", "references.temperatures=own", "references.weights=[1,3]"]
    config = load_config(path, changes)
    assert config.caches == config.cache == ("a", "/b")
    assert config.references is not None
    assert config.references.weights == (1, 3)
    for wrong, told in (
        ("references.weights=[1]", "references: 1 weights for 2 caches; give one for each"),
        ("references.combine=max", "references.combine: .*'mean' or 'min'"),
        ("references.schedule=[{at: 0, weight: [1, 2]}]", r"schedule\.0\.weight: unknown field"),
    ):
        with pytest.raises(InvalidDocument, match=told):
            load_config(path, [*changes[:2], wrong])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("seed.x=3", "seed is a single value"),
        ("seed=[", "not a YAML value"),
    ],
)
def test_malformed_overrides(tmp_path: Path, override: str, message: str):
    with pytest.raises(InvalidInput, match=message):
        load_config(write(tmp_path, seed=1), [override])


def test_unreadable_files(tmp_path: Path):
    with pytest.raises(InvalidInput, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(InvalidDocument, match="no mapping"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InvalidDocument, match="not YAML") as caught:
        load_config(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_extends_another(tmp_path: Path):
    write(tmp_path, epochs=3, optimizer={"lr": 0.5, "warmup": 0.1})
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "a.yaml").write_text("extends: ../config.yaml\noptimizer: {lr: 0.25}\n")
    (folder / "b.yaml").write_text("extends: a.yaml\nseed: 7\n")
    made = load_config(folder / "b.yaml", ["epochs=9"])
    assert (made.epochs, made.seed, made.optimizer.lr) == (9, 7, 0.25)
    assert made.optimizer.warmup == 0.05, "of the file that sets it last, whole"
    (folder / "a.yaml").write_text("extends: b.yaml\n")
    with pytest.raises(InvalidDocument, match=r"a\.yaml extends b\.yaml, which extends it"):
        load_config(folder / "b.yaml")
