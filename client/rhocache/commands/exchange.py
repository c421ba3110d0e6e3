"""``convert``, ``merge``, ``export`` and ``import``: caches of other caches, and of and for others.

Their room is imported when they are used.
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rhocache.commands import options, tables
from rhocache.commands.extras import extra
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.reference import Dtype, ReferenceSpec

if TYPE_CHECKING:
    from rhocache_workers.maintain.derive import Made

Cache = Annotated[str, typer.Argument(help="The cache's folder: a path or a URI.")]
Out = Annotated[str, typer.Option(help="A folder that is not there yet: a path or a URI.")]


def add_to(app: typer.Typer) -> None:
    for command in (convert, merge, export):
        app.command()(command)
    app.command("import")(import_)


def convert(
    cache: Cache,
    dtype: Annotated[
        str, typer.Option(metavar="float32|float16|int8", help="Type of the new embeddings.")
    ],
    out: Out,
    as_json: options.Json = False,
) -> None:
    """Write a cache anew with embeddings of another type, in the newest format.

    The new manifest states how far rounding took similarities from those of the old cache.
    """
    with extra("workers"):
        from rhocache_workers.maintain.convert import convert as run
    _tell(run(cache, _dtype(dtype), out), as_json)


def merge(
    caches: Annotated[list[str], typer.Argument(help="Caches of one reference: paths or URIs.")],
    out: Out,
    as_json: options.Json = False,
) -> None:
    """Put the shards of several caches into one; no two may have the same shard."""
    with extra("workers"):
        from rhocache_workers.maintain.merge import merge as run
    _tell(run(caches, out), as_json)


def export(
    cache: Cache,
    format: Annotated[
        str,
        typer.Option(
            metavar="npy|parquet-lists|lance|datacomp|huggingface",
            help="npy is clip-retrieval's layout.",
        ),
    ],
    out: Out,
    as_json: options.Json = False,
) -> None:
    """Write a cache's usable rows in the layout of another tool."""
    with extra("workers"):
        from rhocache_workers.exchange.export import export as run
    _tell(run(cache, format, out), as_json)


def import_(
    folder: Annotated[str, typer.Argument(help="Local folder of embeddings.")],
    format: Annotated[
        str, typer.Option(metavar="clip-retrieval|datacomp", help="Whose layout it has.")
    ],
    out: Out,
    model: options.Model,
    pretrained: options.Pretrained = None,
    precision: options.Precision = "fp32",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|float16|int8", help="Type to store; default: theirs."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset that they are of; default: the folder.")
    ] = None,
    shard_digits: Annotated[
        int | None,
        typer.Option(
            min=1, help="A pair's shard is KEY's first so many characters and .tar (img2dataset)."
        ),
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Column of keys; default: image_path, or DataComp's uid.")
    ] = None,
    caption_field: options.CaptionField = None,
    logit_scale: Annotated[
        float | None,
        typer.Option(min=0, help="The reference's inverse temperature, for who distils from it."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a cache of embeddings that another tool has computed.

    Nobody has hashed their images and captions, nor seen the reference's weights: the manifest says
    so, and training then compares pairs by their keys alone.
    """
    with extra("workers"):
        from rhocache_workers.exchange.importing import import_embeddings
    from pydantic import ValidationError

    given: dict[str, Any] = {"model": model, "pretrained": pretrained, "precision": precision}
    try:
        reference = ReferenceSpec(**given)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error
    made = import_embeddings(
        folder,
        format,
        out,
        reference,
        dtype=None if dtype is None else _dtype(dtype),
        dataset=dataset,
        shard_digits=shard_digits,
        key_column=key_column,
        caption_field=caption_field,
        logit_scale=logit_scale,
    )
    _tell(made, as_json)


def _dtype(name: str) -> Dtype:
    if name not in ("float16", "float32", "int8"):
        raise InvalidInput(f"dtype {name!r} is not one of float32, float16, int8")
    return name


def _tell(made: "Made", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(made)))
    else:
        Console().print(tables.made(made))
