"""The ``rhocache`` command. A sub-command imports its room when it is used."""

import sys

import typer

from rhocache.commands import jobs, keys, offline, training
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.text import tell_crash
from rhocache_schemas.threads import wait_briefly

INTERRUPTED = 130

app = typer.Typer(
    name="rhocache",
    help="Reference-model caches for DRRHO model steering.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for commands in (offline, jobs, keys, training):
    commands.add_to(app)


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
