"""Images that crash or hang their decoder: a decoder of our own does so on command."""

import io
import os
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from rhocache_schemas.errors import RowErrorCode
from rhocache_workers.encode import decode as decoding
from rhocache_workers.encode.decode import IsolatedDecoder, ThreadDecoder
from rhocache_workers.encode.viewer import Viewer
from rhocache_workers.reference.preprocess import Preprocess
from rhocache_workers.stage_times import Stages


class Poisoned(Preprocess):
    """Images of one pixel's width crash the process, those of two hang it."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if image.width == 1:
            os.abort()
        if image.width == 2:
            time.sleep(1000)
        return super().__call__(image)


def png(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 20), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def transform(reference_folder: Path) -> object:
    import open_clip

    return open_clip.create_model_from_pretrained(f"local-dir:{reference_folder}")[1]


def test_a_decoder_apart_outlives_what_kills_it(
    transform: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SECONDS", 6.0)
    with IsolatedDecoder(Viewer(Poisoned(transform))) as decoder:
        images = [png(20), png(1), png(30), png(2), b"no image", png(40)]
        futures = [decoder.submit(image, ("", ""), Stages()) for image in images]
        found = [decoder.wait(future) for future in futures]
        again = [decoder.wait(future) for future in futures]  # as another reference does
    assert all(one is other for one, other in zip(found, again, strict=True))
    bad = RowErrorCode.IMAGE_UNDECODABLE
    assert [item if isinstance(item, RowErrorCode) else "ok" for item in found] == [
        "ok", bad, "ok", bad, bad, "ok",
    ]  # fmt: skip
    plain = ThreadDecoder(Viewer(Preprocess(transform)), threads=1)
    for image, apart in ((images[0], found[0]), (images[5], found[5])):
        torch.testing.assert_close(
            apart, plain.wait(plain.submit(image, ("", ""), Stages())), atol=0, rtol=0
        )


def test_a_process_that_dies_between_two_images_costs_neither(transform: object) -> None:
    before = set(psutil.Process().children())
    with IsolatedDecoder(Viewer(Preprocess(transform))) as decoder:
        first, second = (decoder.submit(png(width), ("", ""), Stages()) for width in (20, 30))
        assert isinstance(decoder.wait(first), torch.Tensor)
        for process in set(psutil.Process().children()) - before:
            process.kill()
        assert isinstance(decoder.wait(second), torch.Tensor)


def test_threads_count_their_time(transform: object) -> None:
    decoder, stages = ThreadDecoder(Viewer(Preprocess(transform)), threads=2), Stages()
    for future in [decoder.submit(png(20), ("", ""), stages) for _ in range(5)]:
        decoder.wait(future)
    assert stages.seconds["decode"] > 0
