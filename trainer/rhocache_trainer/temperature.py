"""The temperature τ of a contrastive risk: constant, or learned with the model."""

import torch
from torch import Tensor, nn

MINIMUM = 0.01


class Temperature(nn.Module):
    """One τ ≥ ``minimum`` shared by both sides of every pair; a 0-dim tensor.

    The parameter is τ itself, projected onto the constraint before it is used, and not, say,
    exp(θ) + minimum: the gradient of the objective is then the parameter's gradient as it stands,
    and a τ that reached the floor leaves it again with the first gradient that points upwards,
    where a squashing function's slope would have vanished.
    """

    def __init__(self, initial: float, *, learnable: bool, minimum: float = MINIMUM) -> None:
        super().__init__()
        self.minimum = minimum
        value = torch.tensor(float(initial))
        if learnable:
            self.tau = nn.Parameter(value)
        else:
            self.register_buffer("tau", value)

    def forward(self) -> Tensor:
        with torch.no_grad():
            self.tau.clamp_(min=self.minimum)
        return self.tau
