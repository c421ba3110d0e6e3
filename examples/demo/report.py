"""The demo's table and its self-contained HTML report."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table
from safetensors import safe_open

from experiments.pages import sentences
from experiments.study import Study, outcomes_of
from experiments.trial import measures
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import list_shards
from rhocache_trainer import EvaluationResult, ReferenceCache

matplotlib.use("agg")

Results = dict[str, EvaluationResult]

COLUMNS = {
    "mean": lambda r: measures(r)["mean_recall"],
    "i→t R@1": lambda r: r.image_to_text[1],
    "R@5": lambda r: r.image_to_text[5],
    "R@10": lambda r: r.image_to_text[10],
    "t→i R@1": lambda r: r.text_to_image[1],
    "R@5 ": lambda r: r.text_to_image[5],
    "R@10 ": lambda r: r.text_to_image[10],
    "zero-shot": lambda r: r.zero_shot.accuracy,
}
GALLERY = 12
# The same with more seeds.
STUDY, OUTCOMES = Path("experiments/studies/demo.yaml"), Path("experiments/results/demo.jsonl")


def rich_table(results: Results) -> Table:
    title = "Icons of other sets, percent (i→t: image to text; mean: of recalls)"
    table = Table(title=title, box=SIMPLE, padding=0)
    table.add_column("model", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for model, result in results.items():
        table.add_row(model, *(f"{100 * value(result):.1f}" for value in COLUMNS.values()))
    return table


def write(
    folder: Path,
    dataset: str,
    manifest: Manifest,
    results: Results,
    seconds: dict[str, float],
) -> Path:
    cache = ReferenceCache.open(str(folder / "cache"))
    rows = [cache.shard(name) for name in cache.shards]
    similarity = np.concatenate([r.similarity[r.ok] for r in rows])
    page = _template().render(
        test_pairs=results["plain CLIP"].images,
        classes=len(results["plain CLIP"].zero_shot.classes),
        manifest=manifest,
        reference_parameters=_parameters(folder / "moved-away"),
        target_parameters=_parameters(folder / "drrho" / "model"),
        columns=list(COLUMNS),
        table=[
            {"model": model, "scores": [value(result) for value in COLUMNS.values()]}
            for model, result in results.items()
        ],
        best=[max(map(value, results.values())) for value in COLUMNS.values()],
        verdict=_verdict(results),
        plots={"loss": _curves(folder), "similarity": _histogram(similarity)},
        galleries=_galleries(cache, dataset),
        seen=seen_over_seeds(),
        seconds=seconds,
    )
    path = folder / "report.html"
    path.write_text(page)
    return path


def seen_over_seeds() -> list[str]:
    study = Study.read(STUDY)
    return sentences(study, outcomes_of(study, OUTCOMES))


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")


def _verdict(results: Results) -> str:
    plain, steered = results["plain CLIP"], results["DRRHO"]
    wins = sum(value(steered) > value(plain) for value in COLUMNS.values())
    before, after = (100 * COLUMNS["mean"](each) for each in (plain, steered))
    return (
        f"Mean recall is {before:.1f} % by plain CLIP and {after:.1f} % by DRRHO, which is ahead "
        f"in {wins} of {len(COLUMNS)} columns of this run."
    )


def _parameters(model: Path) -> str:
    with safe_open(model / "open_clip_model.safetensors", "np") as weights:
        names = weights.keys()
        count = sum(int(np.prod(weights.get_slice(name).get_shape())) for name in names)
    return f"{count / 1e6:.1f} M"


def _curves(folder: Path) -> str:
    """The two objectives are different quantities, so each has an axis of its own."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    lines = []
    for name, label, axis, colour in (
        ("clip", "plain CLIP: loss", axes, "tab:gray"),
        ("drrho", "DRRHO: true objective F", axes.twinx(), "tab:red"),
    ):
        records = [json.loads(line) for line in (folder / name / "log.jsonl").open()]
        steps, values = zip(*((r["step"], r["objective"]) for r in records), strict=True)
        lines += axis.plot(steps, values, color=colour, label=label)
        axis.set_ylabel(label, color=colour)
    axes.set_xlabel("step")
    axes.set_title("Training curves")
    axes.legend(handles=lines)
    return _embedded(figure)


def _histogram(similarity: np.ndarray) -> str:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(similarity, bins=60, color="tab:blue")
    axes.set_xlabel("reference cosine of image and own caption")
    axes.set_ylabel("pairs")
    axes.set_title("Per-pair reference similarity")
    return _embedded(figure)


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _galleries(cache: ReferenceCache, dataset: str) -> dict[str, list[dict[str, Any]]]:
    scored = sorted(
        (float(rows.similarity[row]), name, rows.keys[row])
        for name in cache.shards
        for rows in [cache.shard(name)]
        for row in np.flatnonzero(rows.ok)
    )
    wanted = {
        "Lowest similarity": scored[:GALLERY],
        "Highest similarity": scored[: -GALLERY - 1 : -1],
    }
    chosen = {(shard, key) for pairs in wanted.values() for _, shard, key in pairs}
    found = {
        (shard, pair.key): pair for shard, pair in _read(dataset) if (shard, pair.key) in chosen
    }
    return {
        title: [
            {
                "similarity": similarity,
                "shard": shard,
                "key": key,
                "caption": found[shard, key].caption,
                "picture": _picture(found[shard, key]),
            }
            for similarity, shard, key in pairs
        ]
        for title, pairs in wanted.items()
    }


def _read(dataset: str) -> Iterator[tuple[str, Pair]]:
    for shard in list_shards(dataset):
        for pair in ShardReader(shard):
            yield shard.name, pair


def _picture(pair: Pair) -> str:
    return "data:image/png;base64," + base64.b64encode(pair.image or b"").decode()
