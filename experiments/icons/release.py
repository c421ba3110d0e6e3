"""``python -m experiments.icons.release RUN ICONS OUT``: a reference, ready to be given away.

Writes OUT as an open_clip ``local-dir`` in half precision, with a model card that has its measures
on the held-out sets of ICONS.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader
from safetensors.torch import load_file, save_file

from rhocache_schemas.weights.file import CONFIG, WEIGHTS
from rhocache_trainer import EvaluationResult, evaluate, load_config


def main(run: Path, icons: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(str(run / "model" / WEIGHTS))
    halved = {
        name: each.half() if each.is_floating_point() else each for name, each in weights.items()
    }
    save_file(halved, str(out / WEIGHTS), metadata={"format": "pt"})
    shutil.copy(run / "model" / CONFIG, out / CONFIG)
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=False)
    text = templates.get_template("model_card.md.j2").render(
        parameters=sum(each.numel() for each in weights.values()),
        config=load_config(run / "config.yaml"),
        results={name: measure(out, icons / name) for name in ("validation", "test")},
        bytes=(out / WEIGHTS).stat().st_size,
        sha256=hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest(),
        torch=torch.__version__.partition("+")[0],
    )
    (out / "README.md").write_text(text + "\n")


def measure(model: Path, dataset: Path) -> EvaluationResult:
    return evaluate(str(model), str(dataset), class_field="concept", templates="name")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "icons", "out"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
