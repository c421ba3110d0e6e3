"""Caps that keep a hostile or broken dataset from taking the machine down."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    member_bytes: int = 64 << 20  # of an image, a caption or a json
    members: int = 1_000_000  # in one shard
    pixels: int = 100_000_000  # of an image
    aspect_ratio: float = 200.0  # long side over short; a thin image explodes when it is resized


DEFAULT_LIMITS = Limits()
