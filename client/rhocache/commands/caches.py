"""``caches``, ``errors`` and ``delete``: which caches there are, what failed, and away with one.

Readers of Parquet are imported when they are used: other commands need not wait for them.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.filesize import decimal

from rhocache.commands import options, tables
from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Plan, Progress
from rhocache_schemas.errors import CacheNotFound, InvalidInput, RowErrorCode


def add_to(app: typer.Typer) -> None:
    for command in (caches, errors, delete):
        app.command()(command)


@dataclass(frozen=True, slots=True)
class Found:
    """A cache as its documents have it; None is what is not known before it is complete."""

    cache: str
    state: str  # complete, or the phase of the run that began it
    pairs: int | None
    failed: int | None
    dataset: str
    model: str
    created_at: float  # Unix seconds

    @classmethod
    def at(cls, cache: str) -> Self:
        from rhocache_schemas.cache.reader import CacheReader

        reader = CacheReader.find(cache)
        if reader is None:
            plan, uri = Plan.read(layout.plan_file(cache)), layout.progress_file(cache)
            run = Progress.read(uri) if storage.exists(uri) else None
            state = run.phase if run else "begun"
            spec = plan.spec
            return cls(
                cache, state, None, None, spec.dataset, spec.reference.model, plan.created_at
            )
        made = reader.manifest
        beyond = made.failed_by_code.get(RowErrorCode.OVER_LIMIT, 0)
        return cls(
            cache, "complete", made.rows - beyond, made.failed - beyond, made.dataset,
            made.reference.model, made.created_at,
        )  # fmt: skip


def caches(
    place: Annotated[
        str, typer.Argument(help="Folder to look in, and three below it: a path or a URI.")
    ] = ".",
    as_json: options.Json = False,
) -> None:
    """List the caches in a folder, the newest first."""
    from rhocache_schemas.cache.listing import find_caches

    if not storage.exists(place):
        raise CacheNotFound(f"there is no folder {place}")
    found = [Found.at(cache.removeprefix("./")) for cache in find_caches(place)]
    found.sort(key=lambda each: -each.created_at)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found]))
    elif found:
        Console().print(tables.caches(found))
    else:
        typer.echo(f"no cache in {place}, nor in the folders below it; `rhocache score` makes one")


def errors(
    cache: Annotated[str, typer.Argument(help="The cache's folder: a path or a URI.")],
    code: Annotated[str | None, typer.Option(help="Only this error code.")] = None,
    as_json: options.Json = False,
) -> None:
    """Tell what failed in a cache, by code: how many pairs and shards, and some of them."""
    from rhocache_schemas.cache.reader import CacheReader
    from rhocache_schemas.failures import errors_by_code

    if not storage.exists(layout.plan_file(cache)):
        raise CacheNotFound(f"there is no cache at {cache}: it has no {layout.PLAN}")
    reader, progress = CacheReader.find(cache), layout.progress_file(cache)
    counted: dict[str, int] = {}
    if reader is not None:
        counted = reader.manifest.failed_by_code
    elif storage.exists(progress):
        counted = Progress.read(progress).failed_by_code
    found = errors_by_code(cache, counted)
    if code is not None:
        found = {name: each for name, each in found.items() if name == code}
    if as_json:
        told = {
            name: {
                "count": each.count,
                "samples": [error.model_dump() for error in each.samples[: tables.SAMPLES]],
            }
            for name, each in found.items()
        }
        typer.echo(json.dumps(told))
    elif found:
        Console().print(tables.failed(found))
    else:
        typer.echo("nothing failed" if code is None else f"nothing failed with {code}")


def delete(
    cache: Annotated[str, typer.Argument(help="The cache's folder: a path or a URI.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")
    ] = False,
) -> None:
    """Delete a cache, complete or not. Files in its folder that are not the cache's stay."""
    from rhocache_schemas.cache.deletion import contents, delete_cache

    found = contents(cache)
    told = f"{len(found.own):,} files of {cache}, {decimal(found.bytes)}"
    if dry_run:
        typer.echo(f"would delete {told}")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidInput("nobody is there to be asked: give --yes to delete without a word")
        typer.confirm(f"Delete {told}?", abort=True)
    deleted = delete_cache(cache)
    typer.echo(f"deleted {len(deleted.own):,} files, {decimal(deleted.bytes)}")
    for name in deleted.foreign[:10]:
        typer.echo(f"{name} is not the cache's: it stays")
