"""Shards that are the same to the byte wherever they are written."""

import io
import tarfile

SHARD_PAIRS = 1024


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
