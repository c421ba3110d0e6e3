"""``migrate`` and ``import-caches``: a service's registry, where its database is."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rhocache.commands.extras import extra
from rhocache.commands.serve import DatabaseUrl, DataDir
from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.errors import CacheNotFound, RhocacheError
from rhocache_schemas.job.paths import absolute_location

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


def add_to(app: typer.Typer) -> None:
    app.command()(migrate)
    app.command("import-caches")(import_caches)


def migrate(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Make the registry's tables, or bring them up to date; `serve` does so too."""
    with opened(data_dir, database_url) as engine:
        from rhocache_service.registry.tables import revision, shown

        typer.echo(f"the registry {shown(engine.url)} is at revision {revision(engine)}")


def import_caches(
    places: Annotated[
        list[str],
        typer.Argument(help="Folders to look in, and three below each: paths or URIs."),
    ],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """List caches that lie in storage in the registry too, as after the registry was lost."""
    from rhocache_schemas.cache.listing import find_caches
    from rhocache_schemas.cache.reader import CacheReader

    for place in places:
        if not storage.exists(place):
            raise CacheNotFound(f"there is no folder {place}")
    imported = damaged = 0
    with opened(data_dir, database_url) as engine:
        from rhocache_service.registry.caches import Committed

        committed = Committed(engine)
        for cache in (found for place in places for found in find_caches(place)):
            try:
                reader, job = CacheReader.find(cache), _job(cache)
            except RhocacheError as error:
                typer.echo(f"rhocache: error: {error}", err=True)
                damaged += 1
                continue
            if reader is None:
                typer.echo(f"{cache} is passed over: it is not complete")
                continue
            made = reader.manifest
            committed.add(
                absolute_location(cache), made.fingerprint_sha256, job, int(made.created_at)
            )
            typer.echo(f"{cache}: {made.rows:,} pairs")
            imported += 1
    typer.echo(f"{imported} caches are in the registry now")
    if damaged:
        raise typer.Exit(1)


def _job(cache: str) -> str:
    """The job that worked on a cache last; nothing where none did, or it is not known any more."""
    uri = layout.progress_file(cache)
    return (Progress.read(uri).job or "") if storage.exists(uri) else ""


@contextmanager
def opened(data_dir: str | None, database_url: str | None) -> "Generator[Engine]":
    """Open the registry that options or the environment name; warn of unknown variables."""
    with extra("service"):
        from rhocache_service.registry.tables import open_database
        from rhocache_service.settings import Settings, unknown_secrets
    given = {"data_dir": data_dir, "database_url": database_url}
    for line in unknown_secrets():
        typer.echo(f"rhocache: warning: {line}", err=True)
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    if settings.database_url is None:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage.failure(f"cannot write in {settings.data_dir}", error) from error
    engine = open_database(settings.registry_url)
    try:
        yield engine
    finally:
        engine.dispose()
