"""``keys``: the API keys of a service, made where its registry is."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rhocache.commands import options, tables
from rhocache.commands.extras import extra
from rhocache.commands.registry import opened
from rhocache.commands.serve import DatabaseUrl, DataDir
from rhocache_schemas.api import SCOPES
from rhocache_schemas.errors import InvalidInput

if TYPE_CHECKING:
    from rhocache_service.registry.api_keys import Keys

_DAY = 24 * 3600
_MOST_DAYS = 3650
_SHOWN = ("id", "name", "scopes", "created_at", "expires_at", "revoked_at")  # times: Unix seconds

keys = typer.Typer(help="Make, list and revoke a service's API keys.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it permits, of {', '.join(SCOPES)}; repeatable, needed once."),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Until it expires; default: never.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make an API key and print it: this is the only time that it can be seen."""
    scopes: Any = scope or []
    with extra("service"):
        from rhocache_service.registry.api_keys import check_new
    check_new(name, scopes)  # before a registry is made where there is none
    if days is not None and not 0 <= days <= _MOST_DAYS:
        raise InvalidInput(f"--days {days:g}: it must be from 0 to {_MOST_DAYS}")
    expires = None if days is None else int(time.time() + days * _DAY)
    with _opened(data_dir, database_url) as found:
        _, key = found.create(name, scopes, expires)
    typer.echo(key)


@keys.command("list")
def list_keys(
    data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: options.Json = False
) -> None:
    """List the API keys, newest first."""
    with _opened(data_dir, database_url) as found:
        listed = found.list()
    if as_json:
        data = [{name: getattr(key, name) for name in _SHOWN} for key in listed]
        typer.echo(json.dumps({"object": "list", "data": data}))
    else:
        Console().print(tables.keys(listed))


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as the list has it.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """End an API key at once."""
    with _opened(data_dir, database_url) as found:
        found.revoke(key)


@contextmanager
def _opened(data_dir: str | None, database_url: str | None) -> "Generator[Keys]":
    with opened(data_dir, database_url) as engine:
        from rhocache_service.registry.api_keys import Keys

        yield Keys(engine)
