"""Every kind of figure and what sentences say, from outcomes whose truth is known."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.figures import draw
from experiments.pages import sentences
from experiments.study import AS_IT_IS, Outcome, Study, Trial
from experiments.summary import Summary
from rhocache_trainer import load_config
from rhocache_trainer.model.clip import build_model

CONFIG = "experiments/configs/small.yaml"
SEEDS = [0, 1, 2]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


def study(**settings: Any) -> Study:
    given = {
        "title": "A title",
        "question": "Is it?",
        "config": CONFIG,
        "references": {"weak": "folder", "strong": "folder"},
        "scored": {},
        "evaluate": {},
        "arms": {"plain": [], "steered": []},
        "seeds": SEEDS,
        "baseline": "plain",
        "seen": [],
    }
    return Study.model_validate(given | settings)


def outcome(arm: str, share: float, seed: int = 0, **settings: Any) -> Outcome:
    trial = {"reference": None, "point": {}, "changes": [], "arm": arm, "seed": seed} | settings
    return Outcome(
        identity="", trial=Trial.model_validate(trial), measures={"zero_shot": share},
        steps=settings.get("point", {}).get("steps", 1), seconds=1.0, device="cpu",
    )  # fmt: skip


def text_of(tmp_path: Path, made: Study, outcomes: list[Outcome]) -> str:
    draw(tmp_path / "figure.svg", made, Summary(outcomes, made.baseline), "zero-shot")
    return " ".join(ElementTree.parse(tmp_path / "figure.svg").getroot().itertext())


def test_curves_have_a_panel_for_each_value_of_a_second_axis(tmp_path: Path) -> None:
    grid = {"pairs": {10: [], 20: []}, "training": {"equal": [], "more": []}}
    made = study(grid=grid, figure="curves", seen=["{{ needed('steered', training='more') }}"])
    outcomes = [
        outcome(arm, base + pairs / 100, seed, point={"pairs": pairs, "training": training})
        for arm, base in (("plain", 0.1), ("steered", 0.15))
        for pairs in (10, 20)
        for training in ("equal", "more")
        for seed in SEEDS
    ]
    drawn = text_of(tmp_path, made, outcomes)
    assert all(text in drawn for text in ("training equal", "training more", "plain", "steered"))
    # plain has 0.3 with 20 pairs; steered 0.25 with 10 and 0.35 with 20: half the way in log2.
    assert sentences(made, outcomes) == ["14"]
    begun = [outcome("steered", 0.9, 7, point={"pairs": 10, "training": "more"})]
    assert sentences(made, outcomes + begun) == ["14"]  # a seed that is not done everywhere


def test_teachers_are_along_the_axis_and_plain_is_the_same_for_each(tmp_path: Path) -> None:
    made = study(
        figure="teachers",
        seen=["{{ gain('steered', reference='strong') }} and {{ at('plain', reference='weak') }}"],
    )
    outcomes = [
        outcome(AS_IT_IS, 0.2, reference="weak"),
        outcome(AS_IT_IS, 0.6, reference="strong"),
        *(outcome("plain", 0.3, seed) for seed in SEEDS),
        *(outcome("steered", 0.25, seed, reference="weak") for seed in SEEDS),
        *(outcome("steered", 0.45, seed, reference="strong") for seed in SEEDS),
    ]
    assert "as good as its reference" in text_of(tmp_path, made, outcomes)
    assert sentences(made, outcomes) == ["15.0 ± 0.0 and 30.0 ± 0.0"]


def test_errors_over_compute_get_their_exponent(tmp_path: Path) -> None:
    steps = {"steps": {100: [], 1000: [], 10000: []}}
    made = study(grid=steps, figure="compute", seen=["{{ exponent('steered') }}"])
    outcomes = [
        outcome(arm, 1 - factor * number**-0.25, seed, point={"steps": number})
        for arm, factor in (("plain", 1.0), ("steered", 0.9))
        for number in steps["steps"]
        for seed in SEEDS
    ]
    drawn = text_of(tmp_path, made, outcomes)
    assert "steered: exponent −0.250" in drawn.replace("-", "−")
    assert sentences(made, outcomes) == ["-0.250"]


def test_compute_is_that_of_the_towers() -> None:
    from experiments.compute import training_flops

    config = load_config(CONFIG)
    clip = build_model(config.model)
    with FlopCounterMode(display=False) as counter:
        features = clip.module(torch.zeros(7, 3, 32, 32), clip.tokenizer(["a"] * 7))
        sum(part.sum() for part in features.values() if part.ndim > 1).backward()
    wanted = counter.get_total_flops() / 7 * config.batch_size * 5
    found = training_flops(study(), outcome("plain", 0.1, point={"steps": 5}))
    assert found == pytest.approx(wanted)
