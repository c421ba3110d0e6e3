"""Helpers in a real Ray cluster, some of which die, and some of which never get a core."""

import io
import os
from contextlib import closing
from pathlib import Path

import open_clip
import pytest
import ray
import torch
from PIL import Image

from rhocache_schemas.errors import RowErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode.decode import ThreadDecoder
from rhocache_workers.encode.remote_decode import ClusterDecoder, helpers_to_feed
from rhocache_workers.encode.viewer import Viewer
from rhocache_workers.reference.preprocess import Preprocess
from rhocache_workers.run.driver import score
from rhocache_workers.stage_times import Stages


class Marking(Preprocess):
    """Leaves a mark when another process than this one has it."""

    def __init__(self, transform: object, mark: Path, *, deadly: bool = False) -> None:
        super().__init__(transform)  # pyright: ignore[reportArgumentType]
        self._home, self._mark, self._deadly = os.getpid(), mark, deadly

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if os.getpid() != self._home:
            self._mark.touch()
            if self._deadly:
                os.abort()
        return super().__call__(image)


@pytest.fixture(scope="module")
def transform(reference_folder: Path) -> object:
    return open_clip.create_model_from_pretrained(f"local-dir:{reference_folder}")[1]


def images() -> list[bytes]:
    made = []
    for width in range(5, 45):
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((width, 20)).save(buffer, "PNG")
        made.append(buffer.getvalue() if width != 9 else b"no image")
    return made


def check(decoder: ClusterDecoder, transform: object) -> None:
    plain = ThreadDecoder(Viewer(Preprocess(transform)), threads=1)  # pyright: ignore[reportArgumentType]
    submitted = [decoder.submit(data, ("", ""), Stages()) for data in images()]
    for data, future in zip(images(), submitted, strict=True):
        found, expected = decoder.wait(future), plain.wait(plain.submit(data, ("", ""), Stages()))
        if isinstance(expected, RowErrorCode):
            assert found == expected == RowErrorCode.IMAGE_UNDECODABLE
        else:
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("deadly", [False, True], ids=["lives", "dies"])
def test_a_helper_takes_images_and_changes_none(
    deadly: bool, transform: object, tmp_path: Path, ray_address: str
) -> None:
    mark = tmp_path / "mark"
    decoder = ClusterDecoder(Viewer(Marking(transform, mark, deadly=deadly)), threads=1, helpers=1)
    with closing(decoder):
        while not mark.exists():
            check(decoder, transform)
        check(decoder, transform)


def test_a_helper_that_gets_no_core_holds_nothing_up(transform: object, ray_address: str) -> None:
    with closing(ClusterDecoder(Viewer(Preprocess(transform)), threads=1, helpers=4)) as decoder:  # pyright: ignore[reportArgumentType]
        check(decoder, transform)


def test_a_job_with_helpers_writes_the_same(scored: ScoreSpec, tmp_path: Path) -> None:
    spec = scored.model_copy(update={"output": str(tmp_path / "cache"), "remote_decoders": 1})
    score(spec)
    for file in Path(scored.output, "shards").iterdir():
        assert (tmp_path / "cache" / "shards" / file.name).read_bytes() == file.read_bytes()


def test_only_a_tower_that_is_faster_needs_helpers(transform: object, ray_address: str) -> None:
    viewer = Viewer(Preprocess(transform))  # pyright: ignore[reportArgumentType]
    assert helpers_to_feed(viewer, 1.0, threads=1) == 0
    assert helpers_to_feed(viewer, 1e6, threads=1) <= ray.cluster_resources()["CPU"]
