"""Options that say what to score, shared by ``score`` and ``submit``."""

import json
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.spec import Dtype, JobSpec
from rhocache_schemas.reference import Precision

Dataset = Annotated[str, typer.Argument(help="Folder, brace pattern or one tar: a path or a URI.")]
Model = Annotated[
    str, typer.Option(help="open_clip architecture, local-dir:PATH or hf-hub:ORG/REPO.")
]
Out = Annotated[str, typer.Option(help="The cache's folder: a path or a URI.")]
Pretrained = Annotated[
    str | None, typer.Option(help="Weights of an architecture: open_clip's tag, or a file.")
]
Shards = Annotated[str | None, typer.Option(metavar="GLOB", help="Only shards of these names.")]
CaptionField = Annotated[
    str | None, typer.Option(help="Take captions from this field of KEY.json, not from KEY.txt.")
]
PrecisionName = Annotated[
    str, typer.Option(metavar="|".join(get_args(Precision)), help="What the reference computes in.")
]
DtypeName = Annotated[
    str, typer.Option(metavar="|".join(get_args(Dtype)), help="Type of the stored embeddings.")
]
Workers = Annotated[
    int | None, typer.Option(help="Encoders; default: one a GPU, or one a machine.")
]
RemoteDecoders = Annotated[
    int | None,
    typer.Option(
        help="Cores elsewhere in the cluster that decode for each encoder; default: a GPU's need."
    ),
]
BatchSize = Annotated[str, typer.Option(metavar="auto|N", help="Pairs that are encoded at once.")]
ErrorBudget = Annotated[
    float, typer.Option(help="Largest share of pairs, and of shards, that may fail.")
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed", help="Encode shards again that have rows which another try may mend."
    ),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Drop shards from the cache that left the dataset.")
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace", help="Give up what the output holds of another dataset or reference."
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="A note that the job keeps; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]


def metadata(given: list[str] | None) -> dict[str, str]:
    """Return the notes as a mapping; one whose key has a ``=`` comes as a JSON object.

    Raises InvalidInput.
    """
    notes: dict[str, str] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        try:
            notes |= json.loads(text) if text.startswith("{") else {key: value}
        except (ValueError, TypeError):
            sign = ""
        if not sign:
            raise InvalidInput(f"--metadata {text!r} is not of the form KEY=VALUE")
    return notes


def job_spec(model: str, pretrained: str | None, precision: str, **fields: Any) -> JobSpec:
    """Make a JobSpec of a command's options.

    Raises InvalidInput.
    """
    reference = {"model": model, "pretrained": pretrained, "precision": precision}
    try:
        return JobSpec.model_validate({"reference": reference, **fields})
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error
