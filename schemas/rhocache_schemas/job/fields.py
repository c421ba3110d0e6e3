"""A job's spec as a flat list of fields: what commands, forms and pages ask for and show.

All is taken from the spec's pydantic model: types, bounds, defaults, titles, descriptions. What a
spec nests is flattened: ``reference.model`` is the field ``model``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.spec import Ask, JobSpec

Form = Literal["text", "integer", "number", "flag", "choice", "notes", "lines"]

_NOTES = TypeAdapter(dict[str, str])
_NOT_ASKED = ("format_version", "kind")
_PLAIN: dict[Any, Form] = {str: "text", int: "integer", float: "number", bool: "flag"}


@dataclass(frozen=True, slots=True)
class SpecField:
    path: tuple[str, ...]  # into the spec
    option: str  # of a command: its name, without dashes before it
    title: str
    description: str
    form: Form  # "notes": a mapping from text to text; "lines": a list of what a text can say
    required: bool
    default: Any
    argument: bool  # of a command, by its place
    metavar: str  # what stands for a value; empty where the form says it all
    choices: tuple[str, ...]
    minimum: float | None
    maximum: float | None

    @property
    def pointer(self) -> str:
        """The field's JSON pointer."""
        return "".join(f"/{part}" for part in self.path)

    def get(self, spec: BaseModel) -> Any:
        value: Any = spec
        for part in self.path:
            value = getattr(value, part)
        return value

    def write(self, value: Any) -> list[str]:
        """Spell a value: as one text, as none for null, and notes and lines as a text each."""
        if self.form == "notes":
            return [write_note(*item) for item in value.items()]
        if isinstance(value, tuple):
            return [",".join(map(str, value))]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if self.form == "lines":
            return [str(each) for each in value]
        return [] if value is None else [str(value)]


def fields_of(kind: type[BaseModel]) -> list[SpecField]:
    """List a spec's fields: what is required first, and of the rest the kind's own first.

    Raises TypeError for a field of a type that has no option and no form.
    """
    names = [name for name in kind.model_fields if name not in JobSpec.model_fields]
    names += [name for name in JobSpec.model_fields if name in kind.model_fields]
    found = [field for name in names for field in _flatten(kind, name, ())]
    return sorted(found, key=lambda field: not field.required)


def nest(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the document in which each value is at its path."""
    document: dict[str, Any] = {}
    for path, value in values.items():
        place = document
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return document


def chosen(spec: BaseModel) -> Iterator[tuple[SpecField, Any]]:
    """Yield the fields that say something, with their values: the required, and no default."""
    for field in fields_of(type(spec)):
        value = field.get(spec)
        if field.required or value != field.default:
            yield field, value


def write_note(key: str, value: str) -> str:
    """Return ``KEY=VALUE``, or where that could be read otherwise a JSON object; in one line."""
    plain = not (key.startswith("{") or "=" in key or any(each in key + value for each in "\r\n"))
    return f"{key}={value}" if plain else json.dumps({key: value})


def read_notes(given: Iterable[str]) -> dict[str, str]:
    """Return what ``write_note`` wrote as one mapping.

    Raises InvalidInput.
    """
    notes: dict[str, str] = {}
    for text in given:
        try:
            notes |= _read_note(text)
        except ValueError as error:
            raise InvalidInput(f"metadata {text!r} is not of the form KEY=VALUE") from error
    return notes


def _read_note(text: str) -> dict[str, str]:
    if text.startswith("{"):
        return _NOTES.validate_json(text)
    key, value = text.split("=", 1)
    return {key: value}


def _flatten(model: type[BaseModel], name: str, before: tuple[str, ...]) -> Iterator[SpecField]:
    info, path = model.model_fields[name], (*before, name)
    annotation: Any = info.annotation
    if name in _NOT_ASKED:
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for inner in annotation.model_fields:
            yield from _flatten(annotation, inner, path)
        return
    types = list(_alternatives(annotation))
    form = _form([each for each in types if each is not NoneType])
    default = info.get_default(call_default_factory=True)
    # What no option can say must be meant where there is none.
    unsaid = False if form == "flag" else None if NoneType in types else default
    if form is None or default is not unsaid:
        detail = f"no option can be made of {annotation} with the default {default!r}"
        raise TypeError(f"{model.__name__}.{name}: {detail}")
    choices = tuple(
        str(each) for kind in types if get_origin(kind) is Literal for each in get_args(kind)
    )
    ask = next((each for each in info.metadata if isinstance(each, Ask)), Ask())
    yield SpecField(
        path=path,
        option=ask.option or name.replace("_", "-"),
        title=info.title or name.replace("_", " ").capitalize(),
        description=info.description or "",
        form=form,
        required=info.is_required(),
        default=None if info.is_required() else default,
        argument=ask.argument,
        metavar=ask.metavar or _metavar(form, choices),
        choices=choices if form == "choice" else (),
        minimum=_bound(info, "ge"),
        maximum=_bound(info, "le"),
    )


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that a value may have, without what is annotated of them."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    else:
        yield annotation


def _form(types: list[Any]) -> Form | None:
    origins = {get_origin(each) or each for each in types}
    if origins == {Literal}:
        return "choice"
    if origins == {dict}:
        return "notes"
    if origins == {list}:
        return "lines"
    if origins in ({int, Literal}, {tuple}):
        return "text"
    return _PLAIN.get(types[0]) if len(types) == 1 else None


def _metavar(form: Form, choices: tuple[str, ...]) -> str:
    if form == "choice":
        return "|".join(choices)
    if form == "notes":
        return "KEY=VALUE"
    return "|".join([*choices, "N"]) if choices else ""


def _bound(info: FieldInfo, name: str) -> float | None:
    return next((getattr(each, name) for each in info.metadata if hasattr(each, name)), None)
