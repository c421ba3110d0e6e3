"""What scoring a dataset will cost: operations, hours and storage, before any of it is done."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from rhocache_schemas.cache.shard_file import OK, ShardRows, writer_like
from rhocache_schemas.dataset.formats import open_dataset, read_shard
from rhocache_schemas.dataset.formats.base import Format
from rhocache_schemas.dataset.pair import HASH_BYTES, Pair
from rhocache_schemas.dataset.source import AUTO, Source
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import DatasetError, InvalidInput, ShardError
from rhocache_schemas.job.paths import absolute_model, absolute_weights
from rhocache_schemas.reference import Dtype, ReferenceSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.calibration import calibrate
from rhocache_workers.encode.decode import decode
from rhocache_workers.plan.devices import Device, device_here, find_device
from rhocache_workers.plan.flops import Outline
from rhocache_workers.reference.model import load_reference

_SAMPLE = 1000  # pairs whose captions and keys stand for all
_BATCH = {"cpu": 32, "cuda": 256}  # images and captions to time
_SECONDS = 2.0  # to time each tower for


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one pair."""

    image_flops: int  # of one view
    text_flops: int  # of one caption, at text_length
    full_text_flops: int  # at context_length
    text_length: float  # mean positions of the captions that were sampled
    context_length: int
    views: int
    captions: float  # of a pair, mean of those that were sampled

    @property
    def flops(self) -> float:
        return self.views * self.image_flops + self.captions * self.text_flops


@dataclass(frozen=True, slots=True)
class Storage:
    bytes_per_pair: float
    bytes: int  # of the cache


@dataclass(frozen=True, slots=True)
class Cost:
    """``dataclasses.asdict`` is what ``rhocache plan --json`` prints. Hours are of one device."""

    dataset: str
    model: str
    precision: str
    shards: int
    bytes: int  # of the dataset
    pairs: int
    pairs_estimated: bool  # from the first shards' pairs and the sizes of all
    work: Work
    device: Device
    predicted_hours: float
    measured_hours: float | None
    measured_over_predicted: float | None
    storage: dict[str, Storage]  # by dtype


def estimate(
    dataset: str,
    model: str,
    pretrained: str | None = None,
    *,
    precision: str = "fp32",
    device: str | None = None,
    pairs: int | None = None,
    measure: bool = False,
    kind: str = AUTO,
    views: int = 1,
    **read_as: Any,
) -> Cost:
    """Predict what scoring ``dataset`` with a reference costs on one ``device`` (None: this one's).

    ``kind`` and ``read_as`` are its format and the other settings of its Source. Where it does not
    tell its ``pairs``, the first shard that has a usable one is read to its end, to estimate how
    many there are. The weights are needed only to ``measure``, which times the reference on real
    pairs.

    Raises InvalidInput, DatasetError, ShardError and ReferenceUnavailable.
    """
    if pairs is not None and pairs < 1:
        raise InvalidInput(f"{pairs} pairs: there must be at least one")
    if views < 1:
        raise InvalidInput(f"{views} views: there must be at least one")
    if measure and device not in (None, device_here()):
        raise InvalidInput(f"only this machine's {device_here()} can be measured, not {device}")
    model, pretrained = absolute_model(model), absolute_weights(pretrained)
    named = measure or pretrained is not None
    spec = _reference_spec(model, pretrained, precision) if named else None
    try:
        source = Source(dataset=dataset, **read_as)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error
    opened = open_dataset(source, kind)
    opened.check_kind()
    listed = opened.dated()
    outline = Outline(model, pretrained)
    chosen = find_device(device, precision)
    rows = [shard.rows for shard in listed if shard.rows is not None]
    told = pairs or (sum(rows) if len(rows) == len(listed) else None)
    sample = _read_sample(opened, source, whole=told is None)
    size = sum(shard.size for shard in listed)
    total = told or round(sample.pairs * size / sample.size)
    work = _work(outline, sample, views)
    predicted = work.flops / chosen.flops
    measured = _seconds_per_pair(spec, sample, work) if spec and measure else None
    return Cost(
        dataset=dataset,
        model=model,
        precision=precision,
        shards=len(listed),
        bytes=size,
        pairs=total,
        pairs_estimated=told is None,
        work=work,
        device=chosen,
        predicted_hours=predicted * total / 3600,
        measured_hours=None if measured is None else measured * total / 3600,
        measured_over_predicted=None if measured is None else measured / predicted,
        storage={
            dtype: _storage(total, sample, views, outline.dimension, dtype)
            for dtype in get_args(Dtype)
        },
    )


def _reference_spec(model: str, pretrained: str | None, precision: str) -> ReferenceSpec:
    fields = {"model": model, "pretrained": pretrained, "precision": precision}
    try:
        return ReferenceSpec.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error


def _work(outline: Outline, sample: "_Sample", views: int) -> Work:
    length = mean(outline.text_lengths(sample.captions))
    return Work(
        image_flops=outline.image_flops(),
        text_flops=outline.text_flops(round(length)),
        full_text_flops=outline.text_flops(outline.context_length),
        text_length=length,
        context_length=outline.context_length,
        views=views,
        captions=mean(each for each in sample.counts if each),
    )


@dataclass
class _Sample:
    """The first pairs of the first shard that has a usable one, and of the shards before it."""

    pairs: int = 0  # that were read
    size: int = 0  # bytes of the shards that were read
    keys: list[str] = field(default_factory=list[str])
    counts: list[int] = field(default_factory=list[int])  # of captions; 0 where it is unusable
    captions: list[str] = field(default_factory=list[str])
    images: list[bytes] = field(default_factory=list[bytes])

    def add(self, pair: Pair) -> None:
        self.pairs += 1
        if len(self.keys) < _SAMPLE:
            self.keys.append(pair.key)
            self.counts.append(len(pair.captions) if pair.error is None else 0)
            if pair.error is None:
                self.captions += pair.captions
                if len(self.images) < max(_BATCH.values()):
                    self.images.append(pair.image or b"")


def _read_sample(dataset: Format, source: Source, *, whole: bool) -> _Sample:
    """Sample the shards; count the pairs of those that were begun if ``whole``."""
    sample = _Sample()
    unreadable: ShardError | None = None
    for shard in dataset.shards:
        before = sample.pairs
        try:
            for pair in read_shard(shard, source):
                sample.add(pair)
                if not whole and sample.pairs >= _SAMPLE:
                    break
        except ShardError as error:  # as a run would: it costs its own pairs
            unreadable, sample.pairs = unreadable or error, before
            continue
        sample.size += shard.size
        if sample.captions and sample.pairs:
            return sample
        if sample.pairs >= _SAMPLE:
            break
    if unreadable is not None and not sample.pairs:
        raise unreadable
    raise DatasetError(
        f"no usable pair among the first {sample.pairs} to plan by: " + dataset.describe()
    )


def _storage(pairs: int, sample: _Sample, views: int, dimension: int, dtype: Dtype) -> Storage:
    """Write a real shard file of these keys to see what a pair takes."""
    n, captions = len(sample.keys), np.maximum(sample.counts, 1)
    image = np.zeros((n, views, dimension), np.float32)
    text = np.zeros((n, captions.max(), dimension), np.float32)
    hashes: list[bytes | None] = [bytes(HASH_BYTES)] * n
    similarity = np.zeros(n, np.float32)
    status = [OK] * n
    rows = ShardRows(sample.keys, status, image, text, similarity, hashes, hashes, captions)
    sink, sha256 = io.BytesIO(), "0" * 64
    with writer_like(rows, sink, np.dtype(dtype)) as writer:
        writer.write(rows)
        writer.close(sha256, sha256)
    each = len(sink.getvalue()) / n
    return Storage(bytes_per_pair=each, bytes=round(each * pairs))


@torch.inference_mode()
def _seconds_per_pair(spec: ReferenceSpec, sample: _Sample, work: Work) -> float:
    """Time both towers on real pictures and captions, as encoders run them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = load_reference(spec, device)
    most = _BATCH[device]
    decoded = [decode(reference.preprocess, data) for data in sample.images[:most]]
    pixels = [image for image in decoded if isinstance(image, Tensor)]
    if not pixels:
        raise DatasetError("no image of the first pairs can be decoded")
    tokens = reference.tokenizer(sample.captions[:most])
    towers = Towers(reference, calibrate(reference, None).batch_size)
    image = _seconds(lambda: towers.images(pixels))
    text = _seconds(lambda: towers.texts(tokens))
    return work.views * image / len(pixels) + work.captions * text / len(tokens)


def _seconds(run: Callable[[], Tensor]) -> float:
    """Mean seconds of one run; the result is waited for."""
    run().sum().item()  # warms up
    started, runs = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < _SECONDS:
        run().sum().item()
        runs += 1
    return elapsed / runs
