"""``quickstart``: the whole way once, on what rhocache ships, in one process."""

import shutil
from pathlib import Path

import typer
from rich.console import Console

import rhocache
from rhocache.commands import tables
from rhocache.commands.extras import extra
from rhocache.commands.progress import Seen, ShardProgress
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec

EXAMPLES, CACHE, RUN = Path("examples"), "caches/quickstart", "runs/quickstart"
_SHIPPED = ("icons", "reference", "configs")
_TRAIN, _TEST = "0000[01].tar", "00002.tar"
_EPOCHS = 7  # of 16 steps
_NEXT = f"""\
[bold]What is where[/bold]
  examples/icons       3,072 pairs: 2,048 were trained on, the others held out
  examples/reference   a CLIP that has seen 262,000 other pairs
  {CACHE}    what it says of the pairs: rhocache inspect {CACHE}
  {RUN}      the run and its model: rhocache report {RUN}

[bold]What next[/bold]
  rhocache train examples/configs/drrho.yaml cache={CACHE}
                       all of the training, 24 epochs, in a minute or two
  rhocache score DATASET --model MODEL --out CACHE
                       a dataset of your own; rhocache plan tells what it takes
  rhocache serve       the service, with its page"""


def add_to(app: typer.Typer) -> None:
    app.command()(quickstart)


def quickstart() -> None:
    """Score the shipped pairs with the shipped reference and train from the cache: two minutes.

    In this process and folder, without Ray or a service. What is done already is not done again.
    """
    with extra("workers", "open_clip"):
        from rhocache_workers.run.driver import score
    with extra("trainer"):
        from rhocache_trainer import evaluate, load_config, train
    console = Console()
    _unpack()
    console.rule("1/3  Score 2,048 pairs with the reference", align="left")
    reference = str(EXAMPLES / "reference")
    spec = ScoreSpec(
        dataset=str(EXAMPLES / "icons"),
        shards=_TRAIN,
        reference=ReferenceSpec(model=f"local-dir:{reference}"),
        output=CACHE,
        metadata={},
    )
    with ShardProgress() as progress:
        scored = score(spec, here=True, on_progress=lambda seen: progress.show(Seen.of_run(seen)))
    console.print(tables.scored(scored))
    console.rule("2/3  Train a model from the cache alone: the first 112 steps", align="left")
    changes = [f"cache={CACHE}", f"output={RUN}", f"epochs={_EPOCHS}"]
    trained = train(load_config(str(EXAMPLES / "configs" / "drrho.yaml"), changes), resume="auto")
    console.rule("3/3  Find held-out icons by their names, and names by icons", align="left")
    results = [
        evaluate(model, spec.dataset, shards=_TEST, class_field="concept", templates="name")
        for model in (reference, trained.model)
    ]
    console.print(tables.evaluations(results))
    console.print(_NEXT, highlight=False)


def _unpack() -> None:
    """Put what rhocache ships where README.md has it, and leave what is there as it is."""
    package = Path(rhocache.__file__).parent
    shipped = package / "examples"
    if not shipped.is_dir():  # in a checkout
        shipped = package.parents[1] / "examples"
    for name in _SHIPPED:
        if not (EXAMPLES / name).exists():
            shutil.copytree(shipped / name, EXAMPLES / name)
