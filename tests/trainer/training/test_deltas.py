"""What a run writes of how far each pair is behind its reference."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_pairs import PAIRS, SHARDS
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_trainer import DRRhoClipLoss, GlobalContrastiveLoss, TrainConfig, train
from rhocache_trainer.objectives.contrastive import ContrastiveRisk, DRRhoConfig, GlobalConfig

N, TAU = 12, 0.1


def by_hand(s: Tensor, r: Tensor) -> Tensor:
    """τ log of the mean over j≠i of exp(((s_ij − s_ii) − (r_ij − r_ii)) / τ)."""
    delta = (s - s.diagonal()[:, None]) - (r - r.diagonal()[:, None])
    delta.fill_diagonal_(-math.inf)
    return TAU * ((delta / TAU).logsumexp(1) - math.log(N - 1))


def test_they_are_the_excess_losses_by_their_definition() -> None:
    torch.manual_seed(0)
    image, text, reference_image, reference_text = (
        normalize(torch.randn(N, 8, dtype=torch.float64), dim=1) for _ in range(4)
    )
    loss = DRRhoClipLoss(N + 1, tau=TAU, temperature="constant", rho=1.0, gamma=1.0)
    index = torch.randperm(N)
    loss(image, text, reference_image, reference_text, index)
    found = ContrastiveRisk(DRRhoConfig(), loss).deltas()
    assert found is not None
    held, columns = found
    assert held == range(N + 1)
    s, r = image @ text.T, reference_image @ reference_text.T
    expected = by_hand(s, r), by_hand(s.T, r.T)
    for name, each in zip(("image_delta", "text_delta"), expected, strict=True):
        torch.testing.assert_close(columns[name][index].double(), each, atol=1e-6, rtol=0)
        assert columns[name][N].isnan()  # which was never seen
    both = (columns["image_delta"] + columns["text_delta"]) / 2
    torch.testing.assert_close(columns["delta"], both, equal_nan=True)


def test_a_loss_without_a_reference_has_none() -> None:
    loss = GlobalContrastiveLoss(N, temperature="constant", rho=1.0)
    assert ContrastiveRisk(GlobalConfig(), loss).deltas() is None


@pytest.mark.parametrize("selected", [False, True])
def test_a_run_writes_them_by_shard_and_key(
    config: dict, cache: Path, tmp_path: Path, selected: bool
) -> None:
    pairs = [(f"{shard:05}.tar", f"{row:04}") for shard in range(SHARDS) for row in range(PAIRS)]
    if selected:
        pairs = pairs[1::2]
        shards, keys = zip(*pairs, strict=True)
        pq.write_table(pa.table({"shard": shards, "key": keys}), tmp_path / "only.parquet")
        config["data"] |= {"only": str(tmp_path / "only.parquet")}
    settings = config | {"objective": "drrho", "cache": str(cache), "max_steps": 2}
    result = train(TrainConfig.model_validate(settings))
    rows = pq.ParquetFile(Path(result.output) / "deltas.parquet").read().to_pylist()
    assert [(row["shard"], row["key"]) for row in rows] == pairs
    seen = [row for row in rows if row["delta"] is not None]
    assert len(seen) == 2 * 4
    assert all(math.isfinite(row[name]) for row in seen for name in ("image_delta", "text_delta"))
