"""Encoding on a GPU against open_clip on the CPU: ``make gpu-check`` runs it where there is one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rhocache_schemas.cache import shard_file
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.calibration import calibrate
from rhocache_workers.reference.model import Reference, load_reference
from rhocache_workers.run.driver import score

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: make gpu-check, on a machine that has one"
)

CAPTIONS = ["a cat", "an old house by the sea " * 3, "Ünïcödé 🙂", "word " * 90] * 8


def load(folder: Path, precision: str = "fp32", device: str = "cuda") -> Reference:
    spec = ReferenceSpec.model_validate({"model": f"local-dir:{folder}", "precision": precision})
    return load_reference(spec, device)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=random)


@pytest.fixture(scope="module")
def expected(reference_folder: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """open_clip's own, on the CPU."""
    cpu = load(reference_folder, device="cpu")
    with torch.no_grad():
        return (
            cpu.model.encode_image(cpu.preprocess.normalize(pixels), normalize=True),
            cpu.model.encode_text(cpu.tokenizer(CAPTIONS), normalize=True),
        )


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 3e-2)])
def test_embeddings_are_open_clips(
    precision: str,
    most: float,
    reference_folder: Path,
    pixels: Tensor,
    expected: tuple[Tensor, Tensor],
) -> None:
    reference = load(reference_folder, precision)
    towers = Towers(reference, 16)  # several batches, so that copies run beside the towers
    found = towers.images(list(pixels)), towers.texts(reference.tokenizer(CAPTIONS))
    for there, here in zip(found, expected, strict=True):
        assert there.device.type == "cuda"
        torch.testing.assert_close(there.cpu(), here, atol=most, rtol=0)


@pytest.fixture
def little_memory() -> Iterator[None]:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((256 << 20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_halves_the_batches(
    reference_folder: Path, pixels: Tensor, expected: tuple[Tensor, Tensor], little_memory: None
) -> None:
    towers = Towers(load(reference_folder), 16384)
    found = towers.images(list(pixels) * 342)
    assert towers.batch_size < 16384
    torch.testing.assert_close(found[-48:].cpu(), expected[0], atol=1e-5, rtol=0)


def test_a_batch_size_is_found(reference_folder: Path) -> None:
    found = calibrate(load(reference_folder), None)
    assert 8 <= found.batch_size <= 1024


@pytest.mark.parametrize("workers", [1, 2])
def test_encoders_that_share_a_gpu_write_the_same(
    workers: int, scored: ScoreSpec, tmp_path: Path
) -> None:
    spec = scored.model_copy(update={"output": str(tmp_path), "workers": workers, "batch_size": 8})
    summary = score(spec)
    assert (summary.rows, summary.failed, summary.failed_shards) == (24, 1, 0)
    for file in Path(scored.output, "shards").iterdir():
        rows, _ = shard_file.decode((tmp_path / "shards" / file.name).read_bytes(), file.name)
        before, _ = shard_file.decode(file.read_bytes(), file.name)
        assert rows.status == before.status
        np.testing.assert_allclose(rows.similarity, before.similarity, atol=1e-5)
