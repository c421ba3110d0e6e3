"""Makes the options of commands from the fields of a job's spec, so that none is left out."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError

from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.fields import SpecField, fields_of, nest, read_notes
from rhocache_schemas.job.kinds.score import ScoreSpec

_TYPES: dict[str, Any] = {
    "integer": int,
    "number": float,
    "flag": bool,
    "notes": list[str],
    "lines": list[str],
}
_REPEATED = ("notes", "lines")

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]


def of_spec(kind: type[BaseModel], command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose first parameter, a spec of this kind, is made from options.

    It raises InvalidInput for options that make no spec.
    """
    fields = fields_of(kind)

    @wraps(command)
    def run(**given: Any) -> None:
        values = {field.path: _read(field, given.pop(_name(field))) for field in fields}
        try:
            spec = kind.model_validate(nest(values))
        except ValidationError as error:
            raise InvalidInput(describe(error)) from error
        command(spec, **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [
        *map(_parameter, fields),
        *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own),
    ]
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def of_score(name: str) -> Any:
    """Return the option or argument of a field of ScoreSpec, for a command that takes no spec."""
    return _info(next(field for field in fields_of(ScoreSpec) if field.path[-1] == name))


def _read(field: SpecField, given: Any) -> Any:
    if field.form == "lines":
        return given or []
    return read_notes(given or ()) if field.form == "notes" else given


def _name(field: SpecField) -> str:
    return field.option.replace("-", "_")


def _parameter(field: SpecField) -> inspect.Parameter:
    type_ = _TYPES.get(field.form, str)
    default: Any = inspect.Parameter.empty
    if not field.required:
        default = None if field.form in _REPEATED else field.default
        if isinstance(default, tuple):
            (default,) = field.write(default)
        type_ = type_ | None if default is None else type_
    annotation = Annotated[type_, _info(field)]
    return inspect.Parameter(
        _name(field), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _info(field: SpecField) -> Any:
    """What typer is told of a field. Choices are the spec's to check, as any wrong value is."""
    shown: dict[str, Any] = {"help": field.description, "metavar": field.metavar or None}
    if field.form in ("integer", "number"):
        shown |= {"min": field.minimum, "max": field.maximum}
    if field.argument:
        return typer.Argument(**shown)
    if field.form in _REPEATED:
        shown["help"] += " Repeatable."
    return typer.Option(f"--{field.option}", **shown)


Dataset = Annotated[str, of_score("dataset")]
Model = Annotated[str, of_score("model")]
Pretrained = Annotated[str | None, of_score("pretrained")]
Precision = Annotated[str, of_score("precision")]
Shards = Annotated[str | None, of_score("shards")]
CaptionField = Annotated[str | None, of_score("caption_field")]
Format = Annotated[str, of_score("format")]
Images = Annotated[str | None, of_score("images")]
ImageColumn = Annotated[str | None, of_score("image_column")]
CaptionColumn = Annotated[str | None, of_score("caption_column")]
ImageSuffix = Annotated[str | None, of_score("image_suffix")]
CaptionSuffix = Annotated[str | None, of_score("caption_suffix")]
Captions = Annotated[int | None, of_score("captions")]
