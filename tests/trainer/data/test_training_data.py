"""Whole runs on data from worker processes and tables, and on caches that must be refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from made_pairs import rows, write_parquet
from safetensors.torch import load_file

from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    MissingPair,
    RhocacheError,
    TrainingError,
    UnsupportedVersion,
)
from rhocache_trainer import TrainConfig, train

from ..cache.test_reader import commit_anew, rewrite
from ..conftest import make_pairs, write_tar


@pytest.fixture
def drrho(config: dict, cache: Path) -> dict:
    return config | {"objective": {"name": "drrho", "rho": 1.0}, "cache": str(cache)}


def run(settings: dict, resume="never", **changes):
    return train(TrainConfig.model_validate(settings | changes), resume=resume)


def test_a_run_with_workers_goes_on_to_the_bit(drrho: dict, tmp_path: Path):
    settings = drrho | {"data": drrho["data"] | {"workers": 2}}
    whole = run(settings)
    part = settings | {"output": str(tmp_path / "part")}
    run(part, max_steps=4)  # within an epoch
    result = run(part, resume="auto")
    one, other = (load_file(Path(r.model) / "open_clip_model.safetensors") for r in (whole, result))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(TrainingError, match="other settings for data"):
        run(part, resume="auto", data=settings["data"] | {"workers": 1})


def test_a_cache_of_tars_steers_training_from_a_table(drrho: dict, tmp_path: Path):
    path = write_parquet(tmp_path / "pairs.parquet", rows())
    result = run(drrho, data={"dataset": str(path)})
    assert (result.steps, result.skipped) == (12, {})


def _partial_commit(cache: Path, dataset: Path) -> None:
    (cache / "manifest.json").rename(cache / "plan.json")


def _missing_file(cache: Path, dataset: Path) -> None:
    (cache / "shards" / "00001.tar.parquet").unlink()


def _newer_format(cache: Path, dataset: Path) -> None:
    commit_anew(cache, format_version="3.0")


def _other_count(cache: Path, dataset: Path) -> None:
    commit_anew(cache, rows=30)


def _other_shards(cache: Path, dataset: Path) -> None:
    (dataset / "00001.tar").rename(dataset / "another.tar")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_partial_commit, CacheIncomplete, r"no manifest\.json"),
        (_missing_file, CacheIncomplete, r"00001\.tar\.parquet is in the index"),
        (_newer_format, UnsupportedVersion, r"format version 3\.0; this rhocache reads up to"),
        (_other_count, CacheCorrupt, r"names 30 rows, index\.parquet 24"),
        (_other_shards, CacheIncomplete, r"no shard another\.tar.*is this another dataset"),
    ],
)
def test_a_cache_that_is_refused_before_the_run_begins(
    drrho: dict, cache: Path, dataset: Path, spoil, error, message
):
    spoil(cache, dataset)
    with pytest.raises(error, match=message):
        run(drrho)
    assert not Path(drrho["output"]).exists()


def _not_finite(cache: Path, dataset: Path) -> None:
    for shard in ("00000", "00001"):
        rewrite(cache / "shards" / f"{shard}.tar.parquet", "text_embeddings", np.nan)
    commit_anew(cache)


def _other_pairs(cache: Path, dataset: Path) -> None:
    """Shards of the same names, as every dataset has them."""
    for shard in range(2):
        pairs = make_pairs(shard)
        for pair in pairs:
            pair.key = f"other{pair.key}"
        write_tar(dataset / f"{shard:05}.tar", pairs)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_not_finite, CacheCorrupt, "the text embedding of key 0003 is not finite"),
        (_other_pairs, MissingPair, r"shard 0000\d\.tar, key other\d+: .* has no row"),
    ],
)
def test_a_cache_that_is_refused_before_the_first_step(
    drrho: dict, cache: Path, dataset: Path, spoil, error: type[RhocacheError], message: str
):
    spoil(cache, dataset)
    with pytest.raises(error, match=message):
        run(drrho)
    folder = Path(drrho["output"])
    assert not (folder / "checkpoint.pt").exists()
    assert not (folder / "log.jsonl").read_text()


INTERRUPTED = """
import os, signal, sys
from rhocache_trainer import load_config, train
from rhocache_trainer.training.run_log import RunLog

def interrupt(log, step):
    if step == 3:
        os.killpg(0, signal.SIGINT)

RunLog.advance = interrupt
train(load_config(sys.argv[1]))
"""


def test_ctrl_c_reaches_every_process_and_the_run_is_saved(drrho: dict, tmp_path: Path):
    settings = drrho | {"data": drrho["data"] | {"workers": 1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "config.yaml")],
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert "KeyboardInterrupt" in done.stderr
    assert "DataLoader worker" not in done.stderr
    result = run(settings, resume="auto", max_steps=4)
    assert (result.steps, result.pairs) == (4, 4)
