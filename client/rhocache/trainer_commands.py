"""``train`` and ``evaluate``."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from rhocache import options, tables
from rhocache.extras import extra


def add_to(app: typer.Typer) -> None:
    for command in (train, evaluate):
        app.command()(command)


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in optimizer.lr=1e-3.")
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="never|auto", help="auto: go on from the run's checkpoint.")
    ] = "never",
    as_json: options.Json = False,
) -> None:
    """Train a model, steered by a cache (drrho) or not (clip, global), and export it."""
    with extra("trainer"):
        from rhocache_trainer import load_config
        from rhocache_trainer import train as run
    if resume not in ("never", "auto"):
        raise typer.BadParameter(f"{resume!r} is not 'never' or 'auto'", param_hint="--resume")
    result = run(load_config(config, changes or []), resume=resume)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        Console().print(tables.summary(result))


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of an exported model.")],
    dataset: options.Dataset,
    shards: options.Shards = None,
    caption_field: options.CaptionField = None,
    class_field: Annotated[
        str | None, typer.Option(help="Field of KEY.json with the class, for zero-shot accuracy.")
    ] = None,
    templates: Annotated[
        str, typer.Option(metavar="openai|simple", help="Prompts around class names.")
    ] = "openai",
    as_json: options.Json = False,
) -> None:
    """Measure retrieval both ways and, with --class-field, zero-shot accuracy."""
    with extra("trainer"):
        from rhocache_trainer import evaluate as run
    if templates not in ("openai", "simple"):
        raise typer.BadParameter(f"{templates!r} is not 'openai' or 'simple'")
    result = run(
        model,
        dataset,
        shards=shards,
        caption_field=caption_field,
        class_field=class_field,
        templates=templates,
    )
    if as_json:
        typer.echo(result.model_dump_json())
    else:
        Console().print(tables.evaluation(result))
