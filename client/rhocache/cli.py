"""The ``rhocache`` command. A sub-command imports its room when it is used."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from rhocache.commands import (
    caches,
    doctor,
    exchange,
    jobs,
    keys,
    models,
    offline,
    over_cache,
    quickstart,
    registry,
    serve,
    training,
)
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.text import tell_crash
from rhocache_schemas.threads import wait_briefly
from rhocache_schemas.variables import tell_unknown

INTERRUPTED = 130
NEXT = """\
rhocache {version}: reference-model caches for DRRHO model steering

  rhocache quickstart                 score shipped pairs and train from the cache: two minutes
  rhocache plan DATASET --model M     what scoring a dataset of yours would take
  rhocache score DATASET --model M --out CACHE
  rhocache train CONFIG cache=CACHE   train a model of yours from the cache
  rhocache serve                      the service; its page is at http://127.0.0.1:8321
  rhocache doctor                     what of this machine is ready, and what is not

  rhocache --help has all commands, rhocache models the names of references."""

app = typer.Typer(
    name="rhocache",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
for commands in (
    quickstart,
    offline,
    exchange,
    over_cache,
    caches,
    serve,
    jobs,
    training,
    models,
    doctor,
    keys,
    registry,
):
    commands.add_to(app)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("rhocache"))
        raise typer.Exit


@app.callback()
def begin(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell it.")
    ] = False,
) -> None:
    """Reference-model caches for DRRHO model steering."""
    if context.invoked_subcommand != "serve":  # whose log tells it
        for line in tell_unknown(os.environ):
            typer.echo(f"rhocache: warning: {line}", err=True)
    if context.invoked_subcommand is None:
        typer.echo(NEXT.format(version=version("rhocache")))


def main() -> None:
    """Run the command; it ends with 0 done, 1 failed, 2 bad usage, 3 over budget, 130 stopped."""
    wait_briefly()
    try:
        app()
    except RhocacheError as error:
        typer.echo(f"rhocache: error: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            typer.echo("rhocache: interrupted; what is done is kept", err=True)
        raise
    except Exception as error:
        typer.echo(tell_crash(error), err=True, nl=False)
        sys.exit(1)
