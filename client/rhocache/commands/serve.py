"""``serve``: the service."""

from typing import Annotated

import typer

from rhocache.commands.extras import extra

DataDir = Annotated[
    str | None,
    typer.Option(help="Folder of the registry and of a Ray of our own; default: rhocache-data."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="Registry, as postgresql://...; default: SQLite in the data dir."),
]


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: 8321.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Port for /metrics alone, which asks for no API key there."),
    ] = None,
    data_dir: DataDir = None,
    database_url: Annotated[
        str | None,
        typer.Option(help="Registry, as postgresql://...; default: SQLite in the data dir."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="HTTP address of a Ray cluster's dashboard; default: a Ray of our own."),
    ] = None,
    allow_root: Annotated[
        list[str] | None,
        typer.Option(
            help="Place that jobs may name; repeatable; default: data and working folder."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another Host to answer to: NAME, NAME:PORT, *.NAME or *; repeatable."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a proxy whose X-Forwarded-* are believed; repeatable."
        ),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Path that a proxy shows the service under, as /rhocache.")
    ] = None,
    max_running_jobs: Annotated[
        int | None, typer.Option(help="Jobs that run at once; default: 1.")
    ] = None,
) -> None:
    """Run the job service. Each option can come from the environment too, as RHOCACHE_PORT."""
    given = {name: value for name, value in locals().items() if value is not None}
    with extra("service"):
        from rhocache_service.server import serve as run
        from rhocache_service.settings import Settings
    run(Settings.load(**given))
