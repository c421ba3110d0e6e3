"""Training from a cache's views and captions against training with the reference at work."""

import json
from pathlib import Path
from typing import Any

import live_reference
import numpy as np
import pytest
from live_reference import RUN, Live, make_reference, recaption, steps

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_trainer import load_config, train
from rhocache_workers.run.driver import score


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    make_reference(folder)
    return folder


@pytest.fixture(scope="module")
def job(reference_folder: Path) -> dict[str, Any]:
    return live_reference.job(reference_folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, job: dict[str, Any]) -> Path:
    out = tmp_path_factory.mktemp("views") / "cache"
    score(ScoreSpec.model_validate(job | {"output": str(out)}), here=True)
    return out


@pytest.fixture
def config(tmp_path: Path, cache: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(RUN | {"output": str(tmp_path / "run"), "cache": str(cache)}))
    return path


@pytest.mark.parametrize("order", ["auto", "random"])
def test_a_training_from_views_is_one_with_the_reference_at_work(
    order: str, config: Path, reference_folder: Path, tmp_path: Path
) -> None:
    changes = [f"replay.order={order}"]
    train(load_config(config, changes))
    live = Live(reference_folder)
    with live.at_work():
        train(load_config(config, [*changes, f"output={tmp_path / 'live'}"]))
    cached, worked = steps(tmp_path / "run"), steps(tmp_path / "live")
    assert live.seen == {0, 1, 2}
    assert len(cached["objective"]) == 24
    for name, values in cached.items():
        np.testing.assert_allclose(values, worked[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("order", ["auto", "random"])
def test_a_training_from_captions_is_one_with_the_reference_at_work(
    order: str, config: Path, job: dict[str, Any], reference_folder: Path, tmp_path: Path
) -> None:
    """And each is steered by its own: a training on the first alone is another."""
    data = tmp_path / "data"
    recaption(data / "00000.tar")
    asked = {"dataset": str(data), "output": str(tmp_path / "three"), "captions": 3}
    asked |= {"caption_field": "texts", "dtype": "float32"}
    score(ScoreSpec.model_validate(job | asked), here=True)
    changes = [f"data.dataset={data}", "data.caption_field=texts", f"cache={tmp_path / 'three'}"]
    changes.append(f"replay.order={order}")
    train(load_config(config, changes))
    first = ["replay.captions=1", f"output={tmp_path / 'first'}"]
    train(load_config(config, [*changes, *first]))
    live = Live(reference_folder)
    with live.at_work():
        train(load_config(config, [*changes, f"output={tmp_path / 'live'}"]))
    cached, worked, alone = (steps(tmp_path / name) for name in ("run", "live", "first"))
    assert (live.seen, live.captions) == ({0, 1, 2}, {0, 1, 2})
    for name, values in cached.items():
        np.testing.assert_allclose(values, worked[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(cached["objective"] - alone["objective"]).max() > 2e-3


def test_augmenting_anew_is_steered_otherwise(config: Path, tmp_path: Path) -> None:
    train(load_config(config))
    train(load_config(config, ["replay.order=none", f"output={tmp_path / 'off'}"]))
    replayed, augmented = steps(tmp_path / "run"), steps(tmp_path / "off")
    assert np.abs(replayed["objective"] - augmented["objective"]).max() > 2e-3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["replay.views=4"], "replay.views=4, but the cache of .* holds 3 views of each image"),
        (["replay.captions=2"], "replay.captions=2, but the cache of .* holds 1 caption of each"),
        (["objective=clip", "cache=null", "replay.order=cycle"], "set cache to its location"),
    ],
)
def test_views_that_are_not_there_are_named(config: Path, changes: list[str], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        train(load_config(config, changes))
