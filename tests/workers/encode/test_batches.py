"""Batches: whatever they are, each embedding is its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode import calibration
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.calibration import calibrate
from rhocache_workers.reference.model import Reference, load_reference
from rhocache_workers.reference.packed_blocks import MIN_ROWS

WORDS = ["cat", "house", "by the sea", "drawing of", "Ünïcödé", "🙂", "old"]


@pytest.fixture(scope="module")
def reference(reference_folder: Path) -> Reference:
    return load_reference(ReferenceSpec(model=f"local-dir:{reference_folder}"))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=random)


@pytest.fixture(scope="module")
def tokens(reference: Reference) -> Tensor:
    random = np.random.default_rng(0)
    return reference.tokenizer(
        [" ".join(random.choice(WORDS, size)) for size in random.integers(0, 90, 24)]
    )


@pytest.fixture(scope="module")
def stable(reference: Reference) -> bool:
    return calibrate(reference, None).stable


@pytest.fixture(scope="module")
def alone(reference: Reference, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """open_clip's own embeddings, one at a time."""
    with torch.no_grad():
        images = [
            reference.model.encode_image(reference.preprocess.normalize(each[None]), normalize=True)
            for each in pixels
        ]
        texts = [reference.model.encode_text(each[None], normalize=True) for each in tokens]
    return torch.cat(images), torch.cat(texts)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.lists(st.integers(0, 23), min_size=1, max_size=40),
    batch_size=st.integers(1, 50),
)
def test_an_embedding_does_not_depend_on_its_neighbours(
    reference: Reference,
    pixels: Tensor,
    tokens: Tensor,
    alone: tuple[Tensor, Tensor],
    order: list[int],
    batch_size: int,
) -> None:
    towers = Towers(reference, batch_size)
    images = towers.images([pixels[i] for i in order])
    texts = towers.texts(tokens[order])
    torch.testing.assert_close(images, alone[0][order], atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, alone[1][order], atol=1e-5, rtol=0)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.lists(st.integers(0, 23), min_size=1, max_size=40), batch_size=st.integers(16, 50))
def test_what_calibration_calls_stable_has_the_same_bits_in_every_batch(
    reference: Reference,
    pixels: Tensor,
    tokens: Tensor,
    stable: bool,
    order: list[int],
    batch_size: int,
) -> None:
    if not stable:
        pytest.skip("nothing is on this machine")
    towers, others = Towers(reference, batch_size), Towers(reference, 16)
    images = towers.images([pixels[i] for i in order])
    assert torch.equal(images, others.images(list(pixels))[order])
    assert torch.equal(towers.texts(tokens[order]), others.texts(tokens)[order])


class SmallDevice:
    """A reference on a device whose memory holds ``images`` images, or as many texts' tokens."""

    def __init__(self, reference: Reference, images: int) -> None:
        self._reference = reference
        self._images = images
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._reference, name)

    def encode_images(self, pixels: Tensor) -> Tensor:
        self.batches.append(len(pixels))
        if len(pixels) > self._images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._reference.encode_images(pixels)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        if self._reference.text_tower.lengths(tokens).sum() > self._images * 77:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._reference.encode_texts(tokens)


def test_out_of_memory_halves_the_batches_and_they_stay_so(
    reference: Reference, pixels: Tensor, tokens: Tensor, alone: tuple[Tensor, Tensor]
) -> None:
    small = SmallDevice(reference, images=5)
    towers = Towers(small, batch_size=16)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(towers.images(list(pixels)), alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(towers.texts(tokens), alone[1], atol=1e-5, rtol=0)
    assert towers.batch_size == 4
    assert small.batches == [16, 8] + [4] * 6
    impossible = SmallDevice(reference, images=0)
    with pytest.raises(torch.OutOfMemoryError):
        Towers(impossible, 8).images(list(pixels))  # pyright: ignore[reportArgumentType]


def test_calibration(reference: Reference) -> None:
    found = calibrate(reference, None)
    assert found.batch_size in {16, 32}
    assert found.images_per_second > 0
    assert calibrate(reference, 5).batch_size == 5
    small = SmallDevice(reference, images=10)
    assert calibrate(small, None).batch_size == 8  # pyright: ignore[reportArgumentType]
    assert calibrate(small, 64).batch_size == 8  # pyright: ignore[reportArgumentType]


def test_a_slow_device_is_not_kept_busy_by_choosing(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ViT-L-14 took four minutes of a CPU to find that no batch is faster than another."""
    monkeypatch.setattr(calibration, "LONG", 0.0)
    batches: list[int] = []
    images = Towers.images

    def count(self: Towers, pixels: list[Tensor]) -> Tensor:
        batches.append(len(pixels))
        return images(self, pixels)

    monkeypatch.setattr(Towers, "images", count)
    assert calibrate(reference, None).batch_size == MIN_ROWS
    assert batches == [MIN_ROWS, 1, MIN_ROWS]
