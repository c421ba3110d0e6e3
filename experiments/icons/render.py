"""Renders icons as PNGs of 32 x 32 pixels, black on white where a set names no colours."""

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

from experiments.icons.package import svgs


def render(svg: str) -> bytes | None:
    """Return a PNG, or None where an SVG can't be drawn or leaves no mark on the white."""
    try:
        png = bytes(resvg_py.svg_to_bytes(svg, background="white", skip_system_fonts=True))
    except ValueError:
        return None
    with Image.open(io.BytesIO(png)) as image:
        return None if image.convert("L").getextrema()[0] == 255 else png


def render_set(folder: Path, path: Path) -> None:
    """Render a set into a table of names and PNGs, unless it is there."""
    target = folder / f"{path.stem}.parquet"
    if not target.exists():
        drawn = [(name, png) for name, svg in svgs(path) if (png := render(svg)) is not None]
        columns = [[name for name, _ in drawn], [png for _, png in drawn]]
        table = pa.table(columns, names=["name", "png"])
        pq.write_table(table, target.with_suffix(".partial"))
        target.with_suffix(".partial").rename(target)


def render_sets(folder: Path, paths: Iterable[Path], processes: int) -> Iterator[None]:
    """Render sets side by side, the largest first; yield as each ends."""
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(paths, key=lambda path: -path.stat().st_size)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(partial(render_set, folder), order)


def read_set(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the PNG of each icon of a rendered set."""
    table = pq.ParquetFile(folder / f"{prefix}.parquet").read()
    yield from zip(table["name"].to_pylist(), table["png"].to_pylist(), strict=True)
