"""What stands on a cached embedding: nothing, a linear layer, an MLP or a residual adapter."""

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.settings import Named, Positive, Share, spelled_out


class AsIs(Named):
    """The embedding as it is: a tower that is locked (LiT, Zhai et al. 2022)."""

    name: Literal["as_is"] = "as_is"

    def build(self, width: int, out: int) -> nn.Module:
        return nn.Identity(_same(self, width, out))


class Linear(Named):
    name: Literal["linear"] = "linear"

    def build(self, width: int, out: int) -> nn.Module:
        return nn.Linear(width, out)


class Mlp(Named):
    """Two linear layers with a GELU between them."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[Positive | None, Field(description="null: 4 times the embedding's")] = None

    def build(self, width: int, out: int) -> nn.Module:
        hidden = self.hidden or 4 * width
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


class Adapter(Named):
    """A bottleneck beside the embedding (CLIP-Adapter, Gao et al. 2024)."""

    name: Literal["adapter"] = "adapter"
    ratio: Annotated[Share, Field(description="of what the bottleneck says in the sum")] = 0.2
    hidden: Annotated[Positive | None, Field(description="null: a quarter of the embedding's")] = (
        None
    )

    def build(self, width: int, out: int) -> nn.Module:
        _same(self, width, out)
        return _Residual(width, self.hidden or max(1, width // 4), self.ratio)


Head = Annotated[
    Annotated[AsIs | Linear | Mlp | Adapter, Field(discriminator="name")],
    BeforeValidator(spelled_out),
]


def _same(head: Named, width: int, out: int) -> int:
    if width != out:
        raise InvalidInput(
            f"{head.known_as()} leaves the cached embeddings {width} numbers, but the other tower "
            f"has {out}: set model.embed_dim to {width}, or use linear or mlp"
        )
    return width


class _Residual(nn.Module):
    """(1 − ratio) x + ratio A(x), with A of two bias-free layers, a ReLU after each."""

    def __init__(self, width: int, hidden: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        beside = torch.relu(self.up(torch.relu(self.down(x))))
        return (1 - self.ratio) * x + self.ratio * beside


class CachedTower(nn.Module):
    """A head on embeddings that were cached: [B, width] to [B, out]."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.head(normalize(embeddings, dim=1))  # they were rounded
