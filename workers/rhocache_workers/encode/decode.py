"""Decodes stored images into input of the image tower, in threads or in a process apart."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Protocol, Self

from pebble import ProcessExpired, ProcessPool
from PIL import Image
from torch import Tensor

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import RowError, RowErrorCode
from rhocache_workers.encode.viewer import PairName, Show
from rhocache_workers.stage_times import Stages

SECONDS = 60.0  # that one image may take
TRIES = 2  # with an image at which a process dies so fast that it may not be the cause

Decoded = Tensor | RowErrorCode


def decode(show: Callable[[Image.Image], Tensor], data: bytes) -> Decoded:
    """Return what ``show`` makes of the picture, or why there is nothing for the image tower."""
    try:
        return show(open_image(data))
    except RowError as error:
        return error.code
    except (OSError, ValueError):  # opens, but can't be converted or resized
        return RowErrorCode.IMAGE_UNDECODABLE


class Decoder(Protocol):
    decoders: int  # images that it decodes at a time

    def submit(self, data: bytes, name: PairName, stages: Stages) -> "Future[Decoded]":
        """Begin with the image of a pair: what is shown of it, if it can be decoded."""
        ...

    def wait(self, future: "Future[Decoded]") -> Decoded: ...


class ThreadDecoder:
    """Decodes in threads of this process, which an image that crashes or hangs takes with it."""

    def __init__(self, viewer: Show, threads: int) -> None:
        self._viewer = viewer
        self.decoders = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def submit(self, data: bytes, name: PairName, stages: Stages) -> "Future[Decoded]":
        return self._pool.submit(self._decode, data, name, stages)

    def wait(self, future: "Future[Decoded]") -> Decoded:
        try:
            return future.result(SECONDS)
        except FutureTimeoutError:
            # A hanging thread ends with its process alone. The driver sees the death, and has the
            # shard done again with every image decoded apart.
            sys.stderr.write(f"an image was not decoded within {SECONDS:g} s: the encoder ends\n")
            sys.stderr.flush()
            os._exit(1)

    def _decode(self, data: bytes, name: PairName, stages: Stages) -> Decoded:
        with stages.busy("decode"):
            return decode(partial(self._viewer, name), data)


class IsolatedDecoder:
    """Decodes in a process of its own, one image after another, each when it is waited for.

    Slowly, but an image there can only hurt itself. A context manager, whose end ends the process.
    """

    def __init__(self, viewer: Show) -> None:
        self._viewer = viewer
        self.decoders = 1
        self._pool = _new_pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def submit(self, data: bytes, name: PairName, stages: Stages) -> "Future[Decoded]":  # noqa: ARG002
        return _Undecoded(data, name)

    def wait(self, future: Any) -> Decoded:
        if not future.done():  # for another reference
            future.set_result(self._decode(future))
        return future.result()

    def _decode(self, future: "_Undecoded") -> Decoded:
        for _ in range(TRIES):
            try:
                show = partial(self._viewer, future.name)
                task = self._pool.schedule(decode, args=(show, future.data), timeout=SECONDS)
                return task.result()
            except (FutureTimeoutError, ProcessExpired):
                break
            except BrokenProcessPool:  # the process died, maybe before it had begun with the image
                self._end()
                self._pool = _new_pool()
        return RowErrorCode.IMAGE_UNDECODABLE

    def _end(self) -> None:
        self._pool.stop()
        self._pool.join()


class _Undecoded(Future[Decoded]):
    def __init__(self, data: bytes, name: PairName) -> None:
        super().__init__()
        self.data = data
        self.name = name


def _new_pool() -> ProcessPool:
    return ProcessPool(1, context=multiprocessing.get_context("spawn"))
