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

from rhocache_trainer.accumulation import backward_in_parts
from rhocache_trainer.loss import DRRhoClipLoss, GlobalContrastiveLoss, LossOutput

N, BATCH, STEPS = 40, 12, 3
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
}
SIZES = {2: [[6, 6], [9, 3]], 4: [[3, 3, 3, 3], [1, 5, 2, 4]]}  # pairs of each rank
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
        reference = [normalize(reference_image, dim=1), normalize(reference_text, dim=1)]

        kept = reference if steered else []

        def objective(
            features: dict[str, Tensor], kept: list[Tensor] = kept, index: Tensor = index
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


def main() -> None:
    rank, world_size, store, out = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        Path(sys.argv[4]),
    )
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
    asked = json.loads(Path(f"{store}.json").read_text())
    torch.save([run(each["scenario"], each["sizes"], rank) for each in asked], out)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
