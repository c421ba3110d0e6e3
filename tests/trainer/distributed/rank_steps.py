"""Steps of a small model whose batches lie on several ranks.

test_ranks.py runs this in its own process, and starts it in others:
``rank_steps.py RANK WORLD_SIZE STORE OUT``, with the scenarios in STORE.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize
from torch.nn.parallel import DistributedDataParallel

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import CVaRRisk
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.contrastive import DRRhoClipLoss, GlobalContrastiveLoss, LossOutput
from rhocache_trainer.loss.distillation import Distillation, DistillationWeights
from rhocache_trainer.loss.moving_average import ShardedLogMovingAverage
from rhocache_trainer.loss.references import References, ReferencesConfig
from rhocache_trainer.loss.temperature import MODES, TemperatureMode
from rhocache_trainer.training.accumulation import backward_in_parts

N, BATCH, STEPS = 41, 12, 3  # N is not a multiple of the ranks
Outcome = dict[str, Any]
SCENARIOS: dict[str, dict[str, Any]] = {
    "drrho": {},
    "global": {"steered": False},
    "constant": {"temperature": "constant"},
    "separate": {"temperature": "separate"},
    "individual": {"temperature": "individual"},
    "unscaled": {"steered": False, "scaled": False},
    "averaged": {"averaged": True},
    "parts": {"parts": 2},
    "recomputed": {"parts": 3, "recompute": True},
    "mixed": {"mixed": True, "steps": 1},
    "smallest": {"references": 2},
}
# Pairs of each rank; one of the last four lies in the middle of the batch, and is not all of it.
SIZES = {2: [[6, 6], [9, 3]], 4: [[3, 3, 3, 3], [3, 6, 1, 2]]}
ASKED = {
    world_size: [
        {"name": name, "scenario": scenario, "sizes": sizes}
        for name, scenario in SCENARIOS.items()
        for sizes in SIZES[world_size]
    ]
    for world_size in SIZES
}


class Model(nn.Module):
    """Two towers of one layer each."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(6, 5), nn.Linear(7, 5)
        self.drop = drop

    def forward(self, part: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        image, text = (dropout(each, self.drop) for each in part)
        return {
            "image": normalize(self.image(image), dim=1),
            "text": normalize(self.text(text), dim=1),
        }


def run(scenario: dict[str, Any], sizes: list[int], rank: int) -> Outcome:
    """Train on this rank's rows; give what the ranks must agree on."""
    torch.manual_seed(0)
    mixed = scenario.get("mixed", False)
    dtype = torch.float32 if mixed else torch.float64
    model = Model(scenario.get("dropout", 0.0)).to(dtype)
    steered = scenario.get("steered", True)
    arguments = {
        "tau": 0.2, "gamma": 0.5, "rho": 1.0, "epsilon": 1e-6,
        "temperature": scenario.get("temperature", "learnable"),
        "scaled": scenario.get("scaled", True),
        "averaged": scenario.get("averaged", False),
        "sharded": scenario.get("sharded", False),
    }  # fmt: skip
    loss = (DRRhoClipLoss if steered else GlobalContrastiveLoss)(N, **arguments).to(dtype)
    tau = list(loss.parameters())
    weights = torch.optim.SGD(model.parameters(), lr=0.5)
    sparse = arguments["temperature"] == "individual"
    temperatures = (
        (torch.optim.SparseAdam if sparse else torch.optim.SGD)(tau, 0.01) if tau else None
    )
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randn(N, 6 + 7 + 4 + 4, generator=generator, dtype=dtype)
    start = sum(sizes[:rank])
    rows = slice(start, start + sizes[rank])
    objectives: list[float] = []
    gradients: list[Tensor] = []
    for _ in range(scenario.get("steps", STEPS)):
        index = torch.randperm(N, generator=generator)[:BATCH][rows]
        image, text, reference_image, reference_text = pairs[index].split([6, 7, 4, 4], dim=1)
        reference: list[Any] = [
            [normalize(part, dim=1) for part in each.chunk(scenario.get("references", 1), dim=1)]
            for each in (reference_image, reference_text)
        ]

        kept = reference if steered else []

        def objective(
            features: dict[str, Tensor], kept: list[Any] = kept, index: Tensor = index
        ) -> LossOutput:
            return loss(features["image"], features["text"], *kept, index)

        parts = list(
            zip(*(each.chunk(scenario.get("parts", 1)) for each in (image, text)), strict=True)
        )
        model.zero_grad()
        loss.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            out = backward_in_parts(
                model, parts, objective, recompute=scenario.get("recompute", False)
            )
        for parameter in model.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if len(sizes) > 1:
                dist.all_reduce(gradient)
                gradient /= len(sizes) if arguments["averaged"] else 1
            gradients.append(gradient.clone())
        gradients += [each.grad.to_dense().clone() for each in tau if each.grad is not None]
        objectives.append(float(out.objective))
        weights.step()
        if temperatures is not None:
            temperatures.step()
    return {
        "objectives": objectives,
        "gradients": gradients,
        "state": dict(loss.state_dict()),
        "bytes_sent": loss.ranks.bytes_sent,
    }


class Steered(nn.Module):
    """A model and its loss in one module, as Lightning wraps them."""

    def __init__(self, mode: TemperatureMode, *, sharded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Model(0.0).double()
        self.loss = DRRhoClipLoss(
            N, temperature=mode, tau=0.2, rho=1.0, gamma=0.5, averaged=True, sharded=sharded
        ).double()

    def forward(self, pairs: Tensor, index: Tensor) -> Tensor:
        image, text, *reference = pairs.split([6, 7, 4, 4], dim=1)
        features = self.model((image, text)).values()
        return self.loss(*features, *(normalize(each, dim=1) for each in reference), index).loss


def run_wrapped(
    mode: TemperatureMode, rank: int, world_size: int, *, sharded: bool = False, **options: Any
) -> Outcome:
    """Train what DistributedDataParallel wraps, or with ``world_size`` 1 what nothing does."""
    module = Steered(mode, sharded=sharded)
    wrapped = DistributedDataParallel(module, **options) if world_size > 1 else module
    sparse = mode == "individual"
    tau = list(module.loss.parameters())
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(module.model.parameters(), 0.5)]
    if tau:
        optimizers.append((torch.optim.SparseAdam if sparse else torch.optim.SGD)(tau, 0.01))
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randn(N, 21, generator=generator, dtype=torch.float64)
    looks: list[Tensor] = []
    for _ in range(STEPS):
        index = torch.randperm(N, generator=generator)[:BATCH].chunk(world_size)[rank]
        module.zero_grad()
        wrapped(pairs[index], index).backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            looks.append(module.eval()(pairs[index], index))
        module.train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return state | {"looks": torch.stack(looks)}


def mixed_dtypes(rank: int, world_size: int) -> float:
    """The objective where each rank's features have a dtype of their own."""
    loss = DRRhoClipLoss(N, tau=0.2)
    pairs = torch.randn(BATCH, 4, 5, generator=torch.Generator().manual_seed(2))
    own = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    if rank:
        dtypes = dtypes[1:] + dtypes[:1]
    # Of few bits, so that no dtype rounds them.
    pairs = torch.eye(5)[pairs.abs().argmax(2)][own]
    features = [part.to(dtype) for part, dtype in zip(pairs.unbind(1), dtypes, strict=True)]
    index = torch.arange(BATCH)[own]
    return float(loss(*features, index).objective)


def distilled(rank: int, world_size: int) -> list[Tensor]:
    """The gradients of distillation from two references, averaged over the ranks."""
    torch.manual_seed(0)
    manifests = [
        Manifest.model_construct(logit_scale=scale, logit_bias=None, dimension=width)
        for scale, width in ((20.0, 4), (50.0, 3))
    ]
    references = References(manifests, ReferencesConfig(weights=(1, 3)))
    loss = Distillation(DistillationWeights(), references)
    model = Model(0.0)
    pairs = torch.randn(BATCH, 6 + 7 + 2 * 7)
    own = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    image, text, *reference = pairs[own].split([6, 7, 7, 7], dim=1)
    features = model((image, text))
    scale = torch.tensor(12.0)
    taught = loss((features["image"], features["text"]), tuple(reference), (scale, scale))
    taught.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [torch.stack(Ranks().gather(each)).mean(0) for each in gradients if each is not None]


def early_shards(early: DRRhoClipLoss, rank: int) -> str:
    """What a sharded loss says that was made before this was one of two ranks."""
    features = torch.eye(5)[2 * rank : 2 * rank + 2]
    try:
        early(*[features] * 4, torch.arange(2) + 2 * rank)
    except InvalidInput as error:
        return str(error)
    return "nothing"


def broadcast_shards(rank: int, *, broadcast: bool) -> str:
    """What is said where DistributedDataParallel puts rank 0's rows in place of a rank's own."""

    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.average = nn.Linear(1, 1), ShardedLogMovingAverage(N, Ranks())

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return self.average.update(index, self.layer(x).squeeze(1), 0.5)

    module = Averaged()
    module.average.log_u += rank  # as if it were loaded
    wrapped = DistributedDataParallel(module, broadcast_buffers=broadcast)
    try:
        for step in range(2):
            wrapped(torch.ones(4, 1), torch.arange(4) + 8 * step)
    except InvalidInput as error:
        return str(error)
    return f"rank {rank} has {int(module.average.log_u[-1])}"


def refusals(rank: int) -> list[str]:
    """What this one of two ranks is told of batches that can't be: none may leave it waiting."""
    loss = GlobalContrastiveLoss(N)
    features = normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(3)), dim=1)
    index = torch.arange(3) + 3 * rank
    batches = [
        (features * (1 + rank), index),  # rank 1's are no unit vectors
        (features, torch.arange(3)),  # both ranks have the same pairs
        (torch.eye(5 - rank)[:3], index),  # and of different widths
    ]
    told: list[str] = []
    for image, numbers in batches:
        try:
            loss(image, image, numbers)
        except InvalidInput as error:
            told.append(str(error))
    assert not loss.image_average.seen.any()
    return told


def shared_risk(rank: int, *, broadcast: bool) -> str:
    """What becomes of a risk's state, each rank's own, in what DistributedDataParallel wraps."""

    class Risked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.risk = nn.Linear(3, 1), CVaRRisk(alpha=0.5, n=N)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return self.risk(self.layer(x).squeeze(1).square(), index=index).loss

    module = Risked()
    wrapped = DistributedDataParallel(module, broadcast_buffers=broadcast)
    try:
        for step in range(2):
            wrapped(torch.randn(4, 3), torch.arange(4) + 8 * step + 4 * rank)
    except InvalidInput as error:
        return str(error)
    return f"{int(module.risk.memory.seen.sum())} seen"  # pyright: ignore


def main() -> None:
    rank, world_size, store, out = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        Path(sys.argv[4]),
    )
    early = DRRhoClipLoss(N, sharded=True)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
    asked = json.loads(Path(f"{store}.json").read_text())
    outcomes: Any = [run(each["scenario"], each["sizes"], rank) for each in asked]
    for outcome, each in zip(outcomes, asked, strict=True):
        if each["name"] != "individual":
            outcome["sharded"] = run(each["scenario"] | {"sharded": True}, each["sizes"], rank)
    if world_size == 2:
        outcomes += [
            {mode: run_wrapped(mode, rank, 2, **options) for mode in MODES}
            for options in ({}, {"find_unused_parameters": True, "broadcast_buffers": False})
        ]
        outcomes.append(
            {
                "objective": mixed_dtypes(rank, 2),
                "distilled": distilled(rank, 2),
                "refusals": refusals(rank),
                "shards": run_wrapped("learnable", rank, 2, sharded=True, broadcast_buffers=False),
                "early": early_shards(early, rank),
                "broadcast": [broadcast_shards(rank, broadcast=each) for each in (False, True)],
            }
        )
        outcomes.append({str(each): shared_risk(rank, broadcast=each) for each in (True, False)})
    torch.save(outcomes, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
