"""``train`` and ``evaluate``."""

import json
import os
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
    launcher: Annotated[
        str,
        typer.Option(metavar="none|ray", help="none: in this process, or in those of torchrun."),
    ] = "none",
    processes: Annotated[int, typer.Option(min=1, help="That Ray Train starts.")] = 1,
    gpus_per_process: Annotated[
        int | None, typer.Option(min=0, help="For Ray Train; default: 1 where there are any.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster to join; default: start Ray here.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train a model, steered by a cache (drrho) or not (clip, global), and export it.

    On several GPUs: torchrun --nproc-per-node N -m rhocache train CONFIG, or --launcher ray.

    SIGTERM ends it well, with 0: the step is finished and saved. SIGINT saves too, and ends with
    130. Under Ray SIGINT keeps the last checkpoint.
    """
    with extra("trainer"):
        from rhocache_trainer import load_config
        from rhocache_trainer import train as run
    if resume not in ("never", "auto"):
        raise typer.BadParameter(f"{resume!r} is not 'never' or 'auto'", param_hint="--resume")
    if launcher not in ("none", "ray"):
        raise typer.BadParameter(f"{launcher!r} is not 'none' or 'ray'", param_hint="--launcher")
    settings = load_config(config, changes or [])
    if launcher == "ray":
        with extra("ray-train"):
            from rhocache.ray_launcher import train_on_ray
        result = train_on_ray(
            settings,
            resume=resume,
            processes=processes,
            gpus_per_process=gpus_per_process,
            address=ray_address,
        )
    else:
        result = run(settings, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun's first process tells for all
    if result.stopped:
        again = "the same command with --resume auto goes on"
        typer.echo(f"rhocache: stopped by SIGTERM, saved at step {result.steps}; {again}", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    elif not result.stopped:
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
