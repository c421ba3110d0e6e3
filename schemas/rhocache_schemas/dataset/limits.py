"""Caps that keep a hostile or broken dataset from taking the machine down."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    member_bytes: int = 64 << 20  # of an image
    text_bytes: int = 4 << 20  # of a caption or a json, whose parsing takes 30 times as much memory
    members: int = 1_000_000  # in one shard
    pixels: int = 100_000_000  # of an image
    aspect_ratio: float = 200.0  # long side over short; a thin image explodes when it is resized


DEFAULT_LIMITS = Limits()
