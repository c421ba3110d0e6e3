"""Shards that are the same to the byte wherever they are written."""

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHARD_PAIRS = 1024


@dataclass(frozen=True, slots=True)
class Pair:
    key: str
    image: bytes  # PNG
    caption: str
    about: dict[str, str] | None  # of its JSON; None: it has none


def write(path: Path, pairs: Iterable[Pair]) -> None:
    """Write a shard; it is there whole or not at all."""
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", tarfile.USTAR_FORMAT) as tar:
        for pair in pairs:
            if pair.about is not None:
                add(tar, f"{pair.key}.json", json.dumps(pair.about).encode())
            add(tar, f"{pair.key}.png", pair.image)
            add(tar, f"{pair.key}.txt", pair.caption.encode())
    partial.rename(path)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
