"""A study of two arms, really scored, trained and drawn."""

import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from examples.demo import report
from experiments import __main__ as command
from experiments import pages
from experiments.study import (
    AS_IT_IS,
    Outcome,
    Study,
    Trial,
    identity,
    read_outcomes,
    trials,
)
from experiments.summary import Summary, estimate
from rhocache_trainer.model.classifier import load_classifier

ROOT = Path(__file__).parents[2]
STEPS = ["batch_size=16", "max_steps=2"]
SENTENCE = "From {{ at('plain') }} to {{ at('steered') }}: {{ gain('steered') }} points."


@pytest.fixture
def study(tmp_path: Path, reference_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "HERE", tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "STUDIES", ["small"])
    monkeypatch.setattr(pages, "PAGES", tmp_path / "pages")
    return {
        "title": "Two arms",
        "question": "Is there anything to see?",
        "config": "examples/configs/target.yaml",
        "scored": {"CACHE": {"dataset": "DATA", "shards": "00000.tar"}},
        "evaluate": {
            "dataset": "DATA",
            "shards": "00002.tar",
            "class_field": "concept",
            "templates": "name",
        },
        "references": {"random": str(reference_folder)},
        "common": ["data.shards=00000.tar", "batch_size=16", "max_steps=2"],
        "arms": {
            "plain": ["objective=clip"],
            "steered": ["objective=drrho", "cache=CACHE"],
        },
        "seeds": [0, 1],
        "baseline": "plain",
        "seen": [SENTENCE],
    }


def write(study: dict, tmp_path: Path, name: str = "small") -> None:
    (tmp_path / "studies").mkdir(exist_ok=True)
    (tmp_path / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def run(tmp_path: Path, *arguments: str) -> None:
    done = CliRunner().invoke(command.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_a_study_from_its_trials_to_its_page(study: dict, tmp_path: Path) -> None:
    write(study, tmp_path)
    asked = ["run", "small", "--work", str(tmp_path / "work"), "--data", "examples/icons"]
    run(tmp_path, *asked, "--seeds", "1")
    results = tmp_path / "results" / "small.jsonl"
    first = results.read_text()
    assert {Outcome.model_validate_json(line).trial.arm for line in first.splitlines()} == {
        AS_IT_IS, "plain", "steered"
    }  # fmt: skip

    # An interrupted run has written a part of a line.
    results.write_text(first + first.splitlines()[0][:50])
    run(tmp_path, *asked)
    outcomes = read_outcomes(results)
    assert len(outcomes) == 5
    assert results.read_text().startswith(first), "what was done is kept"
    assert not list((tmp_path / "work").glob("*/checkpoints")), "nothing is left behind"
    unchanged = results.read_bytes()
    run(tmp_path, *asked)
    assert results.read_bytes() == unchanged, "nothing is done twice"

    run(tmp_path, "pages")
    page = (tmp_path / "pages" / "small.md").read_text()
    shares = [each.measures["zero_shot"] for each in outcomes.values() if each.trial.arm == "plain"]
    assert f"From {estimate(shares)} to " in page
    assert page.count("\n| ") == 4, "a head and three rows"
    drawn = ElementTree.parse(tmp_path / "pages" / "small.svg")
    assert "steered" in " ".join(drawn.getroot().itertext())
    assert "(small.md)" in (tmp_path / "pages" / "README.md").read_text()
    once = {path.name: path.read_bytes() for path in (tmp_path / "pages").iterdir()}
    shutil.rmtree(tmp_path / "pages")
    run(tmp_path, "pages")
    assert {path.name: path.read_bytes() for path in (tmp_path / "pages").iterdir()} == once

    # Another setting is another trial.
    study["arms"]["steered"].append("max_steps=3")
    write(study, tmp_path)
    run(tmp_path, *asked)
    assert [each.steps for each in read_outcomes(results).values()][5:] == [3, 3]


def test_what_a_trial_needs_is_made_once_and_what_another_study_did_is_taken_over(
    study: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study["seeds"] = [0]
    trained = {
        "config": "examples/configs/target.yaml",
        "changes": ["data.dataset=DATA/00001.tar", "data.shards=null", "objective=clip", *STEPS],
    }
    study["references"]["taught"] = trained
    study["arms"]["goes on"] = ["objective=clip", "model=local-dir:REFERENCE"]
    study["grid"] = {"steps": {1: ["max_steps=1"], 2: ["max_steps=2"]}}
    study["figure"] = "curves"
    study["seen"] = ["{{ at('steered', steps=2, reference='taught') }}"]
    write(study, tmp_path)
    asked = ["--work", str(tmp_path / "work"), "--data", "examples/icons"]
    run(tmp_path, "run", "small", *asked)
    done = read_outcomes(tmp_path / "results" / "small.jsonl")
    counts = Counter((each.trial.arm, each.trial.reference) for each in done.values())
    assert counts == {
        (AS_IT_IS, "random"): 1, (AS_IT_IS, "taught"): 1, ("plain", None): 2,
        ("steered", "random"): 2, ("steered", "taught"): 2,
        ("goes on", "random"): 2, ("goes on", "taught"): 2,
    }  # fmt: skip
    made = list((tmp_path / "work").glob("*/*"))
    assert Counter(path.parent.name for path in made) == {"references": 1, "caches": 2}
    assert str(tmp_path) not in (tmp_path / "results" / "small.jsonl").read_text()

    other = study | {"arms": {"the same": study["arms"]["steered"], "plain": ["objective=clip"]}}
    other["seen"] = ["{{ gain('the same', steps=1) }}"]
    monkeypatch.setattr(command, "STUDIES", ["other", "small"])
    write(other, tmp_path, "other")
    before = {path: path.stat().st_mtime_ns for path in made}
    run(tmp_path, "run", "other", *asked)
    taken = read_outcomes(tmp_path / "results" / "other.jsonl")
    assert taken.keys() < done.keys()
    assert {each.trial.arm for each in taken.values()} == {AS_IT_IS, "the same", "plain"}
    assert {path: path.stat().st_mtime_ns for path in made} == before
    run(tmp_path, "pages")
    page = (tmp_path / "pages" / "small.md").read_text()
    assert "steered (taught)" in page
    assert "| 1 | plain |" in page


def test_classifiers_are_steered_by_a_references_losses(study: dict, tmp_path: Path) -> None:
    few = "examples/openclipart/00003.tar"
    study |= {
        "task": "classes",
        "config": "examples/configs/classify.yaml",
        "scored": {"LOSSES": {}},
        "evaluate": {"dataset": few, "class_field": "category"},
        "references": {
            "taught": {
                "config": "examples/configs/classify.yaml",
                "changes": [f"data.dataset={few}", "data.shards=null", *STEPS],
            }
        },
        "common": [f"data.dataset={few}", "data.shards=null", *STEPS],
        "arms": {
            "mean": ["objective=classify"],
            "CVaR": ["objective={name: classify, reference: LOSSES, risk: {name: cvar, k: 9}}"],
        },
        "baseline": "mean",
        "measure": "accuracy",
        "seeds": [0],
        "seen": ["{{ at('CVaR') }}"],
    }
    write(study, tmp_path)
    run(tmp_path, "run", "small", "--work", str(tmp_path / "work"))
    done = read_outcomes(tmp_path / "results" / "small.jsonl").values()
    assert {each.trial.arm for each in done} == {AS_IT_IS, "mean", "CVaR"}
    for each in done:
        found = each.measures
        assert 0 <= found["worst_classes"] <= found["class_mean"] <= 1
        assert 0 <= found["accuracy"] <= 1

    # By hand: what the reference makes of each image.
    model = load_classifier(next((tmp_path / "work" / "references").iterdir()) / "model")
    table = pq.ParquetFile(next((tmp_path / "work").rglob("losses.parquet"))).read()
    losses = dict(zip(table["key"].to_pylist(), table["loss"].to_pylist(), strict=True))
    preprocess = image_transform_v2(PreprocessCfg(**model.preprocess_cfg), is_train=False)
    with tarfile.open(few) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    right = []
    for key, loss in losses.items():
        image = Image.open(io.BytesIO(content.get(f"{key}.jpg") or content[f"{key}.png"]))
        with torch.no_grad():
            logits = model.module(preprocess(image.convert("RGB"))[None])["logits"][0]
        label = model.tokenizer.names.index(json.loads(content[f"{key}.json"])["category"])
        assert loss == pytest.approx(float(-logits.log_softmax(0)[label]), abs=1e-4)
        right.append(int(logits.argmax()) == label)
    assert len(right) > 400
    as_it_is = next(each for each in done if each.trial.arm == AS_IT_IS)
    assert as_it_is.measures["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


def outcome(arm: str, seed: int, share: float) -> Outcome:
    trial = Trial(arm=arm, reference="r", point={}, changes=[], seed=seed)
    return Outcome(
        identity=f"{arm} {seed}", trial=trial, measures={"zero_shot": share}, steps=1, seconds=1.0,
        device="cpu",
    )  # fmt: skip


def test_intervals_are_students_and_differences_paired_by_seed() -> None:
    random = np.random.default_rng(0)
    plain, gain = random.uniform(size=5), random.normal(0.1, 0.02, size=5)
    outcomes = [outcome("plain", seed, share) for seed, share in enumerate(plain)]
    outcomes += [outcome("steered", seed, share) for seed, share in enumerate(plain + gain)]
    outcomes.append(outcome("steered", 9, 0.0))  # which plain has not
    found = Summary(outcomes, "plain").difference(("r", (), "steered"), "zero_shot")
    assert found is not None
    interval = stats.ttest_rel(plain + gain, plain).confidence_interval(0.95)
    np.testing.assert_allclose(
        [found.mean - found.half_width, found.mean + found.half_width],
        [100 * interval.low, 100 * interval.high],
    )


def test_the_studies_are_well_formed() -> None:
    for path in sorted((ROOT / "experiments" / "studies").glob("*.yaml")):
        study = Study.read(path)
        assert study.baseline in study.arms, path
        known = {identity(study, trial) for trial in trials(study)}
        done = read_outcomes(ROOT / "experiments" / "results" / f"{path.stem}.jsonl")
        assert done.keys() <= known, f"{path.stem}.jsonl has outcomes of other settings"


def test_the_demos_report_quotes_its_study() -> None:
    assert "standard deviations" in report.seen_over_seeds()[0]
