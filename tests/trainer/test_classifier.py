"""The supervised path: a classifier steered by a table of a reference's losses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from examples.classifier import (
    RISKS,
    Images,
    class_names,
    losses_and_accuracy,
    make_network,
    read_images,
    read_losses,
    train,
    write_losses,
)
from rhocache_schemas.errors import MissingPair
from rhocache_trainer import CVaRRisk
from rhocache_trainer.objectives.classify import rho_loss_selection

ROOT = Path(__file__).parents[2]
CLASSES = ["blue", "green", "red", "white"]  # the colours of conftest's dataset


@pytest.fixture
def images(dataset: Path) -> Images:
    assert class_names(str(dataset), "*.tar", "colour") == CLASSES
    return read_images(str(dataset), "*.tar", CLASSES, "colour")


def reference_losses(images: Images) -> Tensor:
    torch.manual_seed(1)
    network = make_network(len(CLASSES), 4)
    train(network, images, epochs=5, seed=1, batch_size=8)
    return losses_and_accuracy(network, images)[0]


@pytest.mark.parametrize("name", RISKS)
def test_every_risk_learns_the_colours(images, name):
    torch.manual_seed(0)
    network = make_network(len(CLASSES), 8)
    risk = RISKS[name](len(images.labels))
    reference = reference_losses(images)
    train(network, images, epochs=30, seed=0, risk=risk, reference_loss=reference, batch_size=8)
    losses, accuracy = losses_and_accuracy(network, images)
    assert accuracy > 0.9
    assert losses.mean() < reference.mean()


def test_weight_decay_leaves_mu_alone(images):
    """Far above all losses μ's gradient is 1, so that Adam moves it by the rate, 2e-3, a step."""
    risk = CVaRRisk(alpha=0.5, n=len(images.labels), form="dual", mu=1000.0)
    train(make_network(len(CLASSES), 4), images, epochs=2, seed=0, risk=risk, batch_size=8)
    steps = 2 * -(-len(images.labels) // 8)
    assert float(risk.mu.detach()) == pytest.approx(1000 - 2e-3 * steps, abs=1e-3)


def test_losses_are_found_by_shard_and_key(images, tmp_path):
    losses = torch.arange(float(len(images.pairs)))
    write_losses(tmp_path / "losses.parquet", images, losses)
    order = torch.randperm(len(losses)).tolist()
    shuffled = Images([images.pairs[i] for i in order], images.pixels, images.labels)
    assert torch.equal(read_losses(tmp_path / "losses.parquet", shuffled), losses[order])

    lacking = Images([("00007.tar", "0000")], images.pixels, images.labels)
    with pytest.raises(MissingPair, match=r"shard 00007\.tar, key 0000: .* has no loss"):
        read_losses(tmp_path / "losses.parquet", lacking)


def test_selection_takes_what_the_reference_knows_and_the_target_does_not(images):
    """A wrong label is hard for both, so it isn't selected, however large its loss is."""
    wrong = Images(images.pairs, images.pixels, images.labels.clone())
    network = make_network(len(CLASSES), 8)
    train(network, images, epochs=30, seed=0, batch_size=8)
    wrong.labels[0] = (wrong.labels[0] + 1) % len(CLASSES)
    reference, _ = losses_and_accuracy(network, wrong)
    torch.manual_seed(0)
    loss, _ = losses_and_accuracy(make_network(len(CLASSES), 8), wrong)
    assert reference.argmax() == 0
    assert 0 not in rho_loss_selection(loss, reference, 12).tolist()


def test_command(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "examples.classifier", "--risk", "chi-square"),
            *("--reference-shards", "00000.tar", "--epochs", "1", "--width", "8"),
            *("--losses", tmp_path / "losses.parquet"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert lines == [
        "reference, on 509 images",
        "target by the mean, on 512 images",
        "target by chi-square, on the same",
    ]
    table = parquet.read_table(tmp_path / "losses.parquet")
    assert table.num_rows == 512
    assert set(table["shard"].to_pylist()) == {"00002.tar"}
