"""``train``, ``evaluate`` and ``report``: models and how good they are."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from rhocache.commands import options, tables
from rhocache.commands.extras import extra

CLASS_FIELD = "Field of KEY.json that holds a pair's class."

ClassField = Annotated[str | None, typer.Option(help=CLASS_FIELD)]
TemplatesName = Annotated[
    Literal["openai", "simple", "name"],
    typer.Option(help="Prompts around class names; name: none, a class is asked for by its name."),
]


def add_to(app: typer.Typer) -> None:
    for command in (train, evaluate, report):
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
        from rhocache_trainer import load_config, write_report
        from rhocache_trainer import train as run
        from rhocache_trainer.run_folder import RunFolder
    if resume not in ("never", "auto"):
        raise typer.BadParameter(f"{resume!r} is not 'never' or 'auto'", param_hint="--resume")
    if launcher not in ("none", "ray"):
        raise typer.BadParameter(f"{launcher!r} is not 'none' or 'ray'", param_hint="--launcher")
    settings = load_config(config, changes or [])
    if launcher == "ray":
        with extra("ray-train"):
            from rhocache_trainer.training.ray import train_on_ray
        result = train_on_ray(
            settings,
            resume=resume,
            processes=processes,
            gpus_per_process=gpus_per_process,
            address=ray_address,
        )
    else:
        result = run(settings, resume=resume)
    if (os.environ.get("RANK") or "0") != "0":
        return  # torchrun's first process tells for all
    if result.stopped:
        again = "the same command with --resume auto goes on"
        typer.echo(f"rhocache: stopped by SIGTERM, saved at step {result.steps}; {again}", err=True)
    else:
        write_report([result.output], RunFolder(Path(result.output)).report)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    elif not result.stopped:
        Console().print(tables.summary(result))


def evaluate(
    place: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATASET",
            help="Folder of an exported model, for which --cache may stand in, and a dataset.",
        ),
    ],
    cache: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluate the reference that made this cache, from the cache alone; repeatable."
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="With each --cache: the table of class prompts that `rhocache prompts` made."
        ),
    ] = None,
    shards: options.Shards = None,
    caption_field: options.CaptionField = None,
    class_field: ClassField = None,
    templates: TemplatesName = "openai",
    linear_probe: Annotated[
        bool, typer.Option("--linear-probe", help="Train a linear classifier on image features.")
    ] = False,
    probe_shards: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Shards to train it on; default: a part of the pairs."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure retrieval both ways and, with --class-field, zero-shot accuracy.

    Of a model or, with --cache, of the reference that made a cache, whose weights are not loaded.
    Of several caches each reference is told, with --json as a line each. A model that was trained
    on cached embeddings takes those of the dataset's --cache.
    """
    on_cache = len(place) == 2 and cache is not None and len(cache) == 1
    if len(place) != (1 if cache else 2) and not on_cache:
        needed = "DATASET alone beside --cache" if cache else "MODEL and DATASET"
        raise typer.BadParameter(f"give {needed}, not {' '.join(place)}")
    if prompts and cache and len(prompts) != len(cache):
        raise typer.BadParameter(
            f"give one for each --cache, in their order: {len(prompts)} for {len(cache)}",
            param_hint="--prompts",
        )
    if prompts and not cache:
        raise typer.BadParameter(
            "goes with --cache; a model embeds its own", param_hint="--prompts"
        )
    if caption_field and cache:
        raise typer.BadParameter("the cache has its captions", param_hint="--caption-field")
    wanted: dict[str, Any] = {
        "shards": shards,
        "class_field": class_field,
        "templates": templates,
        "linear_probe": linear_probe,
        "probe_shards": probe_shards,
    }
    with extra("trainer"):
        from rhocache_trainer import evaluate as evaluate_model
        from rhocache_trainer import evaluate_cache, evaluate_cached
    if on_cache and cache:
        its = prompts[0] if prompts else None
        results = [evaluate_cached(place[0], cache[0], place[1], prompts_cache=its, **wanted)]
    elif cache:
        each = zip(cache, prompts or [None] * len(cache), strict=True)
        results = [evaluate_cache(one, *place, prompts_cache=its, **wanted) for one, its in each]
    else:
        results = [evaluate_model(*place, caption_field=caption_field, **wanted)]
    for result in results:
        if as_json:
            typer.echo(result.model_dump_json())
        else:
            Console().print(tables.evaluation(result))


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Folders of training runs.")],
    out: Annotated[str, typer.Option(help="HTML file to write.")] = "report.html",
) -> None:
    """Draw training runs over one another, in one HTML file that needs nothing else."""
    with extra("trainer"):
        from rhocache_trainer import write_report
    write_report(runs, out)
    typer.echo(f"wrote {out}")
