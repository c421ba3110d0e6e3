"""``evaluate``, of a table of class prompts too, and ``report`` as their users run them."""

import json
from functools import partial
from pathlib import Path

import pytest

from ..test_cli import EXAMPLES, error_line, here, run

refused = partial(error_line, run=here)
SHARD = "--shards=00003.tar"
CLASSES = ["--class-field=category", "--templates=simple"]


@pytest.fixture(scope="module")
def caches(
    tmp_path_factory: pytest.TempPathFactory, reference_folder: Path, ray_address: str
) -> tuple[Path, Path]:
    """A cache of one shard, and a table of its classes' prompts."""
    folder = tmp_path_factory.mktemp("caches")
    cache, prompts = folder / "cache", folder / "prompts"
    here("score", EXAMPLES, "--model", f"local-dir:{reference_folder}", "--out", cache,
        "--dtype=float32", "--ray-address", ray_address, SHARD)  # fmt: skip
    made = here("prompts", cache, "--dataset", EXAMPLES, *CLASSES, "--out", prompts).stdout
    assert "prompts of each  7" in made
    return cache, prompts


def test_a_reference_is_evaluated_with_and_without_its_weights(
    caches: tuple[Path, Path], reference_folder: Path
) -> None:
    cache, prompts = caches
    options = [SHARD, *CLASSES, "--json"]
    live = json.loads(here("evaluate", reference_folder, EXAMPLES, *options).stdout)
    as_is = ["evaluate", "--cache", cache, "--prompts", prompts, EXAMPLES]
    found = json.loads(here(*as_is, *options).stdout)
    assert found["zero_shot"]["images"] == 512
    for name in ("image_to_text", "text_to_image", "images", "captions", "skipped"):
        assert found[name] == live[name]
    assert found["zero_shot"] == live["zero_shot"]
    both = here("evaluate", "--cache", cache, "--cache", cache, EXAMPLES, SHARD, "--json").stdout
    assert [json.loads(line)["cache"] for line in both.splitlines()] == [str(cache)] * 2
    shown = here(*as_is, SHARD, *CLASSES, "--linear-probe").stdout
    assert "zero-shot" in shown
    assert "linear probe" in shown
    assert str(cache) in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m"], "MODEL and DATASET"),
        (["m", "d", "e"], "MODEL and DATASET"),
        (["m", "d", "--cache=c", "--cache=b"], "DATASET alone"),
        (["m", "d", "--prompts=p"], "goes with --cache"),
        (["d", "--cache=c", "--cache=b", "--prompts=p"], "one for each --cache, in their order"),
        (["d", "--cache=c", "--caption-field=f"], "the cache has its captions"),
        (["m", "d", "--templates=many"], "'openai', 'simple', 'name'"),
    ],
)
def test_bad_usage(arguments: list[str], words: str) -> None:
    said = " ".join(run("evaluate", *arguments, code=2).stderr.split())
    assert "Usage: rhocache evaluate" in said
    assert words in said


def test_errors_are_one_line(tmp_path: Path, caches: tuple[Path, Path]) -> None:
    cache, _ = caches
    none = ["--dataset", EXAMPLES, "--class-field=species", "--out", tmp_path / "prompts"]
    told = refused("prompts", cache, *none, code=1)
    assert "'species'" in told
    line = refused("evaluate", "--cache", cache, EXAMPLES, "--shards=00000.tar", code=1)
    assert "has no shard 00000.tar" in line
    line = refused("evaluate", "--cache", cache, EXAMPLES, "--linear-probe", SHARD, code=2)
    assert "which field" in line
    line = refused("report", tmp_path, code=2)
    assert "no folder of a training run" in line


def test_a_report(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text('{"step": 1, "objective": 0.5}\n')
    out = tmp_path / "out" / "report.html"
    assert here("report", tmp_path / "a", tmp_path / "b", "--out", out).stdout == f"wrote {out}\n"
    assert out.read_text().startswith("<!doctype html>")
