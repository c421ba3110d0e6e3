"""Decodes on other machines of the cluster too, for a GPU that its own machine can't feed."""

import io
import math
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from ray.exceptions import GetTimeoutError, RayError

from rhocache_schemas.errors import RowErrorCode
from rhocache_workers.encode.decode import SECONDS, Decoded, ThreadDecoder, decode
from rhocache_workers.encode.viewer import PairName, Show
from rhocache_workers.stage_times import Stages

GROUP = 16  # images that go to a helper at a time: a few MB each way, some 0.1 s of a core


@dataclass(frozen=True, slots=True)
class _Image:
    data: bytes
    name: PairName
    future: Future[Decoded]
    stages: Stages


class ClusterDecoder(ThreadDecoder):
    """Local threads, and ``helpers`` of one core each anywhere in the cluster, on one queue.

    A helper holds images only once it has its core, a group at a time, and nobody queues more than
    an encoder reads ahead: memory is bounded on both sides. What a helper does not give back (its
    node went, it was killed, an image killed it) is decoded here.
    """

    def __init__(self, viewer: Show, threads: int, helpers: int) -> None:
        super().__init__(viewer, threads)
        self.decoders = threads + helpers
        self._queue: queue.SimpleQueue[_Image] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._helpers: list[Any] = [_Helper.remote(viewer) for _ in range(helpers)]
        self._feeders = [
            threading.Thread(target=self._feed, args=[helper], name="feeder", daemon=True)
            for helper in self._helpers
        ]
        for feeder in self._feeders:
            feeder.start()

    def close(self) -> None:
        """Release the helpers' cores, as the end of an encoder's process also does."""
        self._closed.set()
        for helper in self._helpers:
            ray.kill(helper)
        for feeder in self._feeders:
            feeder.join()

    def submit(self, data: bytes, name: PairName, stages: Stages) -> Future[Decoded]:
        image = _Image(data, name, Future(), stages)
        self._queue.put(image)
        self._pool.submit(self._next_here)
        return image.future

    def _next_here(self) -> None:
        with suppress(queue.Empty):  # a helper has it
            self._decode_here(self._queue.get_nowait())

    def _decode_here(self, image: _Image) -> None:
        try:
            image.future.set_result(self._decode(image.data, image.name, image.stages))
        except BaseException as error:  # for whoever waits, as an executor does it
            image.future.set_exception(error)

    def _feed(self, helper: Any) -> None:
        while not self._closed.is_set():
            ray.wait([helper.__ray_ready__.remote()])  # for a core, or until it is restarted
            if group := self._next_group():
                self._decode_there(helper, group)

    def _next_group(self) -> list[_Image]:
        group: list[_Image] = []
        with suppress(queue.Empty):
            group.append(self._queue.get(timeout=0.2))
            while len(group) < GROUP:
                group.append(self._queue.get_nowait())
        return group

    def _decode_there(self, helper: Any, group: list[_Image]) -> None:
        try:
            pixels, errors, seconds = ray.get(
                helper.decode.remote([(image.name, image.data) for image in group]),
                timeout=SECONDS,
            )
        except (RayError, GetTimeoutError):
            ray.kill(helper, no_restart=False)  # it may hang
            for image in group:
                self._decode_here(image)
            return
        group[0].stages.add_seconds("decode", seconds)
        usable = iter(torch.tensor(pixels))
        for image, error in zip(group, errors, strict=True):
            image.future.set_result(next(usable) if error is None else error)


@ray.remote(num_cpus=1, max_restarts=-1)
class _Helper:
    def __init__(self, viewer: Show) -> None:
        self._viewer = viewer

    def decode(
        self, images: list[tuple[PairName, bytes]]
    ) -> tuple[np.ndarray, list[RowErrorCode | None], float]:
        """Return uint8 [usable images, V, 3, height, width], each one's error, and seconds."""
        started = time.perf_counter()
        decoded = [decode(partial(self._viewer, name), data) for name, data in images]
        usable = [each.numpy() for each in decoded if isinstance(each, torch.Tensor)]
        errors = [each if isinstance(each, RowErrorCode) else None for each in decoded]
        pixels = np.stack(usable) if usable else np.empty((0, 1, 3, 1, 1), np.uint8)
        return pixels, errors, time.perf_counter() - started


def helpers_to_feed(viewer: Show, images_per_second: float, threads: int) -> int:
    """How many cores it takes, beyond ``threads`` here, to keep up with an image tower.

    Taken at what this core needs for a picture of 640 x 480, about the size to which image-text
    datasets are scaled down. At most as many as the cluster has free.
    """
    photo = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(photo, "JPEG")
    started = time.perf_counter()
    for _ in range(GROUP):
        decode(partial(viewer, ("", "")), photo.getvalue())
    seconds = (time.perf_counter() - started) / GROUP
    pictures_per_second = images_per_second / viewer.views.count
    missing = math.ceil(pictures_per_second * seconds) - threads
    return max(0, min(missing, int(ray.available_resources().get("CPU", 0))))
