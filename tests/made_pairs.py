"""The pairs of a small dataset, and every format of dataset, as other tools write them."""

import csv
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ["red", "green", "blue", "white"]
SHARDS = 2
PAIRS = 12  # in each shard
N = SHARDS * PAIRS


@dataclass
class MadePair:
    key: str
    image: bytes
    caption: str


def write_tar(
    path: Path, pairs: list[MadePair], suffixes: tuple[str, str] = ("jpg", "txt")
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for pair in pairs:
            metadata = json.dumps({"colour": pair.caption.rpartition(" ")[2]}).encode()
            image, text = suffixes
            members = {image: pair.image, text: pair.caption.encode(), "json": metadata}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{pair.key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def make_pairs(shard: int) -> list[MadePair]:
    random = np.random.default_rng(shard)
    pairs = []
    for number in range(PAIRS):
        colour = COLOURS[number % len(COLOURS)]
        pixels = np.array(Image.new("RGB", (20 + number, 24), colour))
        pixels[: number + 1, : shard + 1] = random.integers(0, 255, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        caption = f"picture {shard * PAIRS + number} is {colour}"
        pairs.append(MadePair(f"{number:04}", buffer.getvalue(), caption))
    return pairs


def rows() -> list[dict[str, str | bytes]]:
    """Every pair of the dataset, in another order than that of its shards.

    The keys of conftest's shards are the same in both, so that a shard column is needed.
    """
    made = [
        {"image": p.image, "caption": p.caption, "key": p.key, "shard": f"{shard:05}.tar"}
        for shard in range(SHARDS)
        for p in make_pairs(shard)
    ]
    return [made[number] for number in np.random.default_rng(0).permutation(N)]


def write_parquet(path: Path, content: list[dict], group: int = 5) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=group)
    return path


def write_csv(path: Path, content: list[dict], delimiter: str = ",") -> Path:
    """With the images beside it, under names that say nothing."""
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(content):
        name = f"images/{number}.jpg"
        (path.parent / name).write_bytes(row["image"])
        lines.append({**row, "image": name})
    names = {"image": "filepath", "caption": "title"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([names.get(name, name) for name in lines[0]])
        writer.writerows([list(line.values()) for line in lines])
    return path


def write_folder(folder: Path, pairs: list[MadePair]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        (folder / f"{pair.key}.jpg").write_bytes(pair.image)
        (folder / f"{pair.key}.txt").write_text(pair.caption)
    return folder
