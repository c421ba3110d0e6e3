"""Training on a GPU against the same on the CPU: ``make gpu-check`` runs it where there is one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_trainer.loss.contrastive import DRRhoClipLoss
from rhocache_trainer.loss.temperature import MODES

from .training.test_loop import OBJECTIVES, newest, records, run, settings_of, weights

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: make gpu-check, on a machine that has one"
)


@pytest.fixture(params=OBJECTIVES)
def settings(request, config: dict, cache: Path) -> dict:
    return settings_of(request.param, config, cache) | {"device": "cuda"}


def drawn(batch: int, width: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(batch, width, generator=random, dtype=torch.float64) for _ in range(4)]
    return [normalize(each, dim=1) for each in made]


def steps_of_a_loss(mode: str, dtype: torch.dtype, device: str) -> tuple[list[Tensor], dict]:
    """Gradients of each of three steps, and the state after them."""
    n, batch = 3000, 700  # more than a tile on the CPU
    arguments: dict[str, Any] = {"temperature": mode, "rho": 1.0, "gamma": 0.4}
    loss = DRRhoClipLoss(n, **arguments).to(device, dtype)
    gradients: list[Tensor] = []
    for step in range(3):
        index = torch.randperm(n, generator=torch.Generator().manual_seed(step))[:batch]
        given = [each.to(device, dtype) for each in drawn(batch, 64, step)]
        image, text = (each.requires_grad_() for each in given[:2])
        loss.zero_grad()
        loss(image, text, *given[2:], index.to(device)).loss.backward()
        grads = [each.grad for each in (image, text, *loss.parameters())]
        gradients += [each.to_dense().double().cpu() for each in grads if each is not None]
    return gradients, {key: each.cpu() for key, each in loss.state_dict().items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_a_loss_is_the_cpus(mode: str, dtype: torch.dtype, most: float) -> None:
    expected, state = steps_of_a_loss(mode, torch.float64, "cpu")
    found, there = steps_of_a_loss(mode, dtype, "cuda")
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=most, rtol=10 * most)
    assert state.keys() == there.keys()
    for name, value in state.items():
        torch.testing.assert_close(
            there[name].double(), value.double(), atol=10 * most, rtol=10 * most
        )


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_leaves_the_state_in_float32(mode: str) -> None:
    loss = DRRhoClipLoss(40, temperature=mode, rho=1.0).cuda()
    image, text, *reference = (each.cuda().bfloat16() for each in drawn(40, 32, 0))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = loss(
            image.requires_grad_(), text.requires_grad_(), *reference, torch.arange(40).cuda()
        )
    out.loss.backward()
    assert image.grad is not None
    assert image.grad.dtype == torch.bfloat16
    assert torch.isfinite(image.grad).all()
    assert {each.dtype for each in loss.state_dict().values() if each.is_floating_point()} == {
        torch.float32
    }


def test_every_objective_trains_as_on_the_cpu(settings: dict, tmp_path: Path) -> None:
    there = run(settings)
    here = run(settings | {"device": "cpu", "output": str(tmp_path / "cpu")})
    assert (there.steps, there.pairs) == (here.steps, here.pairs)
    assert there.tau == pytest.approx(here.tau, rel=1e-2)
    assert records(there)[0]["objective"] == pytest.approx(records(here)[0]["objective"], rel=1e-3)
    assert there.objective == pytest.approx(here.objective, rel=0.05)


def test_stopping_and_going_on_is_the_same_to_the_bit(settings: dict, tmp_path: Path) -> None:
    whole = run(settings)
    part = settings | {"output": str(tmp_path / "part")}
    run(part, max_steps=2)
    result = run(part, resume="auto")
    for name, tensor in weights(result).items():
        assert torch.equal(tensor, weights(whole)[name]), name
    one, other = (torch.load(newest(each), map_location="cpu") for each in (whole, result))
    torch.testing.assert_close(one["learner"], other["learner"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "accumulation": {"parts": 2, "recompute": True}},
        {"precision": "bf16", "compile": "inductor"},
        {"ema": 0.9, "accumulation": {"parts": 2}},
    ],
    ids=["bf16", "recompute", "compiled", "averaged"],
)
def test_ways_of_training(changes: dict, config: dict, cache: Path) -> None:
    plain = run(settings_of("drrho", config, cache))
    output = str(Path(config["output"]).with_name("changed"))
    made = settings_of("drrho", config, cache) | {"device": "cuda", "output": output}
    result = run(made | changes)
    assert all(math.isfinite(value) for record in records(result) for value in record.values())
    assert result.tau == pytest.approx(plain.tau, rel=0.05)
    assert result.objective == pytest.approx(plain.objective, rel=0.1)
