"""The trainer stands alone: no Ray, no service, no workers, no reference."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

FORBIDDEN = ["ray", "fastapi", "uvicorn", "sqlalchemy", "rhocache_workers", "rhocache_service"]


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_nothing_heavy():
    loaded = json.loads(
        python("import json, sys, rhocache_trainer; print(json.dumps(sorted(sys.modules)))")
    )
    assert not {name.partition(".")[0] for name in loaded} & {*FORBIDDEN, "torch", "open_clip"}


def test_every_public_name_is_there():
    names = json.loads(
        python(
            "import json, rhocache_trainer as t;"
            "print(json.dumps([getattr(t, name).__name__ for name in t.__all__]))"
        )
    )
    assert {"train", "DRRhoClipLoss", "GlobalContrastiveLoss", "ReferenceCache"} <= set(names)


TRAIN = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

FORBIDDEN = sys.argv[2].split(",")
sys.meta_path.insert(0, Refuse())
from rhocache_trainer import evaluate, evaluate_cache, load_config, train
config = load_config(sys.argv[1])
result = train(config)
evaluate(result.model, config.data.dataset)
evaluate_cache(config.cache, config.data.dataset)
assert not set(FORBIDDEN) & {name.partition(".")[0] for name in sys.modules}
print(result.steps)
"""


def test_drrho_trains_without_the_other_rooms_and_without_the_reference(
    config: dict, cache: Path, tmp_path: Path
):
    """The manifest names a reference folder that is not there."""
    reference = json.loads((cache / "manifest.json").read_text())["reference"]["model"]
    assert not Path(reference.removeprefix("local-dir:")).exists()
    settings = config | {"objective": {"name": "drrho", "rho": 1.0}, "cache": str(cache)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert python(TRAIN, str(tmp_path / "config.yaml"), ",".join(FORBIDDEN)).strip() == "12"
