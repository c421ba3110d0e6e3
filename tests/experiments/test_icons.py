"""The dataset of icons, built from a small package of the same layout."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments.icons.names import caption, concept
from experiments.icons.package import VERSION
from experiments.icons.splits import TEST, VALIDATION
from rhocache_trainer import load_config, train

SETS = ["mdi", TEST[0], VALIDATION[0]]
ROOT = Path(__file__).parents[2]


def body(shape: str, number: int) -> str:
    size = f'x="{number}" y="2" width="9" height="9" cx="8" cy="8" r="{1 + number}"'
    return f'<{shape} fill="currentColor" {size}/>'


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "package" / "json").mkdir(parents=True)
    (folder / "package" / "package.json").write_text(json.dumps({"version": VERSION}))
    for number, prefix in enumerate(SETS):
        shape = "circle" if number else "rect"
        icons = {
            f"thing-{row}-outline": {"body": body(shape, row + 5 * number)} for row in range(5)
        }
        icons["same"] = {"body": body("rect", 7)}  # in every set
        icons["hidden"] = {"body": body("rect", 3), "hidden": True}
        icons["broken"] = {"body": "<rect"}
        icons["blank"] = {"body": '<rect fill="#fff" width="9" height="9"/>'}
        info = {"name": prefix, "author": {"name": "A"}, "license": {"title": "MIT", "spdx": "MIT"}}
        found = {"info": info, "width": 16, "height": 16, "icons": icons}
        (folder / "package" / "json" / f"{prefix}.json").write_text(json.dumps(found))
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "package", "package")
    return path


def build(out: Path, archive: Path, processes: int) -> dict[str, bytes]:
    command = [sys.executable, "-m", "experiments.icons", out, "--package", archive]
    subprocess.run([*command, f"--processes={processes}"], cwd=ROOT, check=True)
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "work" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_it_is_the_same_however_it_is_made(archive: Path, tmp_path: Path) -> None:
    once = build(tmp_path / "once", archive, 1)
    again = build(tmp_path / "again", archive, 2)
    assert once == again
    (tmp_path / "again" / "test" / "00000.tar").unlink()
    (tmp_path / "again" / "work" / "rendered" / "mdi.parquet").unlink()
    assert build(tmp_path / "again", archive, 2) == once, "what is missing is made again"

    pairs: dict[str, tuple[str, dict[str, str], tuple[int, int]]] = {}
    for name, data in once.items():
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                parts = {member.name: tar.extractfile(member).read() for member in tar}
            for part in parts:
                key = part.partition(".")[0]
                image = Image.open(io.BytesIO(parts[f"{key}.png"]))
                about = json.loads(parts[f"{key}.json"])
                text = parts[f"{key}.txt"].decode()
                pairs[f"{name.partition('/')[0]}/{key}"] = (text, about, image.size)
    classed = {key: pairs.pop(key) for key in list(pairs) if "-classes/" in key}
    assert len(pairs) == 16, "3 sets of 5, and what is in all of them once"
    named = {key: pair for key, pair in pairs.items() if "concept" in pair[1]}
    assert {key.replace("-classes/", "/"): pair for key, pair in classed.items()} == named
    assert [key for key in pairs if key.endswith("same")] == [f"test/{TEST[0]}--same"]
    assert {key.partition("/")[0] for key in pairs} == {"test", "validation", "target"}
    text, about, size = pairs[f"validation/{VALIDATION[0]}--thing-3-outline"]
    assert (text, size) == ("thing 3 outline", (32, 32))
    assert about == {
        "set": VALIDATION[0],
        "name": "thing-3-outline",
        "licence": "MIT",
        "concept": "thing",
    }
    table = once["sets.csv"].decode().splitlines()
    assert f"{TEST[0]},{TEST[0]},A,MIT,,6,0,0,0" in table


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "package.json").write_text('{"version": "1.0.0"}')
    with tarfile.open(tmp_path / "old.tgz", "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    command = [sys.executable, "-m", "experiments.icons", tmp_path / "out", "--package"]
    ended = subprocess.run(
        [*command, tmp_path / "old.tgz"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith(f"has @iconify/json 1.0.0; {VERSION} is wanted\n")


def test_a_concept_is_a_name_without_style() -> None:
    assert caption("arrow-up-2-filled") == "arrow up 2 filled"
    assert concept("arrow-up-2-filled") == "arrow up"
    assert concept("24-outline") == ""


def test_some_are_given_away_and_a_reference_that_was_trained_on_others(
    archive: Path, tmp_path: Path
) -> None:
    icons = tmp_path / "icons"
    build(icons, archive, 1)
    command = [sys.executable, "-m", "experiments.icons.sample", icons, tmp_path / "some"]
    subprocess.run(command, cwd=ROOT, check=True)
    found = {}
    for path in sorted((tmp_path / "some").glob("*.tar")):
        with tarfile.open(path) as tar:
            found[path.name] = {name.partition("--")[0] for name in tar.getnames()}
    assert found == {"00000.tar": {"mdi"}, "00001.tar": {TEST[0]}}
    table = (tmp_path / "some" / "sets.csv").read_text().splitlines()
    assert table[1:] == [f"{TEST[0]},{TEST[0]},A,MIT,,6", "mdi,mdi,A,MIT,,5"]

    changes = [f"data.dataset={tmp_path}/some", "batch_size=4", "max_steps=1", "device=cpu"]
    config = load_config(
        ROOT / "experiments/icons/reference.yaml", [f"output={tmp_path}/run", *changes]
    )
    trained = load_file(f"{train(config).model}/open_clip_model.safetensors")
    released = tmp_path / "released"
    command = [sys.executable, "-m", "experiments.icons.release", tmp_path / "run", icons, released]
    subprocess.run(command, cwd=ROOT, check=True)
    weights = released / "open_clip_model.safetensors"
    assert weights.stat().st_size < 10_000_000
    card = (released / "README.md").read_text()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert "\n| validation | 5 | 100.0 % |" in card, "of one concept"
    model = open_clip.create_model(f"local-dir:{released}")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, trained[name].half().to(weight.dtype)), name
