"""Datasets of other shards than those that there are."""

import tarfile
from pathlib import Path


def split(source: Path, target: Path, pairs: int, most: int | None = None) -> int:
    """Cut tars into many of ``pairs`` each, of the first ``most`` pairs; give their number."""
    target.mkdir()
    count = 0
    for path in sorted(source.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = sorted(tar.getmembers(), key=lambda info: info.name)
            keys = sorted({info.name.partition(".")[0] for info in members})
            for first in range(0, len(keys), pairs):
                if most is not None and count * pairs >= most:
                    return count
                chosen = set(keys[first : first + pairs])
                with tarfile.open(target / f"{count:05}.tar", "w") as part:
                    for info in members:
                        if info.name.partition(".")[0] in chosen:
                            part.addfile(info, tar.extractfile(info))
                count += 1
    return count
