"""``plan``, ``score``, ``inspect`` and ``verify``: caches without a service."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rhocache.commands import options, tables
from rhocache.commands.extras import extra
from rhocache.commands.progress import Seen, ShardProgress
from rhocache_schemas.dataset.source import AUTO
from rhocache_schemas.job.kinds.score import ScoreSpec

if TYPE_CHECKING:
    from rhocache_schemas.table.documents import TableManifest
    from rhocache_workers.maintain.verify import VerifyReport

Cache = Annotated[str, typer.Argument(help="The cache's folder: a path or a URI.")]


def add_to(app: typer.Typer) -> None:
    for command in (plan, options.of_spec(ScoreSpec, score), inspect, verify):
        app.command()(command)


def plan(
    dataset: options.Dataset,
    model: options.Model,
    pretrained: options.Pretrained = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs to plan for; default: an estimate of the dataset's.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="h100|a100|l4|cpu", help="What to score on; default: this machine's."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the reference here, on pairs of the dataset.")
    ] = False,
    shards: options.Shards = None,
    caption_field: options.CaptionField = None,
    kind: options.Format = AUTO,
    image_suffix: options.ImageSuffix = None,
    caption_suffix: options.CaptionSuffix = None,
    image_column: options.ImageColumn = None,
    caption_column: options.CaptionColumn = None,
    images: options.Images = None,
    captions: options.Captions = None,
    views: Annotated[int, typer.Option(min=1, help="Of each image that are encoded.")] = 1,
    precision: options.Precision = "fp32",
    as_json: options.Json = False,
) -> None:
    """Say what scoring a dataset would cost: operations, hours and storage."""
    with extra("workers"):
        from rhocache_workers.plan.estimate import estimate
    found = estimate(
        dataset,
        model,
        pretrained,
        precision=precision,
        device=device,
        pairs=pairs,
        measure=measure,
        kind=kind,
        shards=shards,
        caption_field=caption_field,
        image_suffix=image_suffix,
        caption_suffix=caption_suffix,
        image_column=image_column,
        caption_column=caption_column,
        images=images,
        captions=captions,
        views=views,
    )
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        Console().print(tables.cost(found))


def score(
    spec: ScoreSpec,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster to join; default: start Ray here.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    here: Annotated[
        bool,
        typer.Option("--here", help="Encode in this process alone, without Ray: for a small run."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Run a frozen reference over a dataset and write its embeddings and similarities.

    Run it again to go on where it was interrupted: only shards that are not done are encoded.
    """
    if dry_run:
        with extra("workers"):
            from rhocache_workers.run.preview import preview
        found = preview(spec)
        if as_json:
            typer.echo(json.dumps(asdict(found)))
        else:
            Console().print(tables.previewed(found))
        return
    with extra("workers", "open_clip", *([] if here else ["ray"])):
        from rhocache_workers.run.driver import score as run
    with ShardProgress() as progress:
        summary = run(
            spec,
            ray_address=ray_address,
            here=here,
            on_progress=lambda seen: progress.show(Seen.of_run(seen)),
        )
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    else:
        console = Console()
        for each in (summary, *summary.also):
            console.print(tables.scored(each))
        if summary.failed or summary.failures:
            from rhocache_schemas.failures import errors_by_code

            console.print(tables.failed(errors_by_code(summary.cache, summary.failed_by_code)))


def inspect(cache: Cache, as_json: options.Json = False) -> None:
    """Show what is in a cache, or in a table that was made from one."""
    from rhocache_schemas.table.reader import TableReader, is_table

    if is_table(cache):
        show_table(cache, TableReader.open(cache).manifest, as_json)
        return
    with extra("workers"):
        from rhocache_workers.maintain.inspect import inspect as look
    found = look(cache)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        Console().print(tables.inspection(found))


def show_table(place: str, found: "TableManifest", as_json: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json())
        return
    console = Console()
    for part in tables.table(place, found):
        console.print(part)


def verify(
    cache: Cache,
    dataset: Annotated[
        str | None, typer.Option(help="Also compare every pair with this dataset.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare with the dataset that was scored.")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--repair", help="Encode the shards again in which anything is wrong.")
    ] = False,
    sample: Annotated[
        int, typer.Option(min=0, help="Pairs to encode again when the reference is at hand.")
    ] = 64,
    as_json: options.Json = False,
) -> None:
    """Check a cache: hashes, counts, footers and rows. Ends with 1 when anything is wrong."""
    with extra("workers"):
        from rhocache_workers.maintain.verify import verify as check
    report = check(cache, dataset, sample=sample, deep=deep)
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"ok": report.ok}))
    else:
        tables.print_report(Console(), report)
    if mend and not report.ok:
        _repair(report, dataset)
        report = check(cache, dataset, sample=sample, deep=deep)
        if not as_json:
            tables.print_report(Console(), report)
    if not report.ok:
        raise typer.Exit(1)


def _repair(report: "VerifyReport", dataset: str | None) -> None:
    with extra("workers", "open_clip", "ray"):
        from rhocache_workers.maintain.repair import repair
    with ShardProgress() as progress:
        repair(report, dataset=dataset, on_progress=lambda seen: progress.show(Seen.of_run(seen)))
