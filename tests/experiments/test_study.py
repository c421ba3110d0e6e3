"""A study of two arms, really scored, trained and drawn."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats
from typer.testing import CliRunner

from experiments import __main__ as command
from experiments import pages
from experiments.study import AS_IT_IS, Outcome, Study, Trial, read_outcomes
from experiments.summary import Summary, estimate

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
        "scored": {"dataset": "DATA", "shards": "00000.tar"},
        "evaluate": {
            "dataset": "DATA",
            "shards": "00002.tar",
            "class_field": "concept",
            "templates": "name",
        },
        "references": {"random": str(reference_folder)},
        "arms": {
            "plain": ["objective=clip", "data.shards=00000.tar", *STEPS],
            "steered": ["objective=drrho", "data.shards=00000.tar", "cache=CACHE", *STEPS],
        },
        "seeds": [0, 1],
        "baseline": "plain",
        "seen": [SENTENCE],
    }


def write(study: dict, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir(exist_ok=True)
    (tmp_path / "studies" / "small.yaml").write_text(yaml.safe_dump(study))


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
    study["arms"]["steered"][-1] = "max_steps=3"
    write(study, tmp_path)
    run(tmp_path, *asked)
    assert [each.steps for each in read_outcomes(results).values()][5:] == [3, 3]


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
        study = Study.read(path, DATA="data")
        assert study.baseline in study.arms, path
        outcomes = ROOT / "experiments" / "results" / f"{path.stem}.jsonl"
        if outcomes.exists():
            assert all(json.loads(line) for line in outcomes.read_text().splitlines())
