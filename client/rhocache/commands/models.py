"""``models``: what open_clip can load by name."""

import json
from typing import Annotated

import typer
from rich.console import Console

from rhocache.commands import options, tables
from rhocache_schemas.models import known_tags


def add_to(app: typer.Typer) -> None:
    app.command()(models)


def models(
    name: Annotated[
        str, typer.Argument(metavar="[FILTER]", help="Only what has this in its name, or weights.")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """List the architectures that open_clip has, with their pretrained weights."""
    wanted = name.lower()
    found = {
        model: tags if wanted in model.lower() else [tag for tag in tags if wanted in tag.lower()]
        for model, tags in known_tags().items()
        if wanted in model.lower() or any(wanted in tag.lower() for tag in tags)
    }
    if as_json:
        typer.echo(json.dumps(found))
    elif found:
        Console().print(tables.models(found))
    else:
        typer.echo(f"no model of open_clip's has {name!r} in its name or its weights'", err=True)
        raise typer.Exit(1)
