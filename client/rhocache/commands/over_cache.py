"""A command for each kind of jobs over a cache, made from its spec: without a service."""

from typing import Annotated

import typer

from rhocache.commands import options
from rhocache.commands.extras import extra
from rhocache.commands.offline import show_table
from rhocache.commands.progress import Seen, ShardProgress
from rhocache_schemas.job.kinds import KINDS, installed
from rhocache_schemas.job.over_cache import CacheJobSpec


def add_to(app: typer.Typer) -> None:
    for name, kind in KINDS.items():
        if issubclass(kind, CacheJobSpec):
            app.command(name, help=kind.__doc__)(options.of_spec(kind, make))


def make(
    spec: CacheJobSpec,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster to join; default: start Ray here.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Compute in this process alone, without Ray.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    with extra("workers", *([] if here else ["ray"])):
        from rhocache_workers.over_cache.driver import make_table
    work = installed("rhocache_workers.kinds", "WORK")[spec.kind].load()
    with ShardProgress() as progress:
        made = make_table(
            spec,
            work,
            ray_address=ray_address,
            here=here,
            on_progress=lambda seen: progress.show(Seen.of_run(seen)),
        )
    show_table(spec.output, made, as_json)
