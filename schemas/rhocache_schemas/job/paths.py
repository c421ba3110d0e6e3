"""The locations that a job names."""

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rhocache_schemas import storage
from rhocache_schemas.job.spec import CODE, LOCATION
from rhocache_schemas.reference import LOCAL_DIR, ReferenceSpec

Model = TypeVar("Model", bound=BaseModel)


def named_locations(spec: BaseModel) -> list[str]:
    """Every location that a job names, the folders and files of its references among them."""
    named: list[str] = []
    for _, value in _naming(spec):
        if _is_nested(value):
            named += [location for each in value for location in named_locations(each)]
            continue
        if not isinstance(value, ReferenceSpec):
            named += [value] if isinstance(value, str) else value
            continue
        if value.local_dir is not None:
            named.append(value.local_dir)
        pretrained = value.pretrained or ""
        if "/" in pretrained or is_local(pretrained):
            named.append(pretrained)
    return named


def named_code(spec: BaseModel) -> list[str]:
    """The locations that a job names of files whose code it would run."""
    fields = type(spec).model_fields.items()
    named = [getattr(spec, name) for name, info in fields if _is_marked(info, CODE)]
    return [place for place in named if place is not None]


def absolute(spec: Model) -> Model:
    """Spell out a job's relative paths: other processes have working folders of their own.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES.
    """
    spelled: dict[str, Any] = {}
    for name, value in _naming(spec):
        if isinstance(value, ReferenceSpec):
            model, pretrained = absolute_model(value.model), absolute_weights(value.pretrained)
            spelled[name] = value.model_copy(update={"model": model, "pretrained": pretrained})
        elif isinstance(value, str):
            spelled[name] = absolute_location(value)
        elif _is_nested(value):
            spelled[name] = [absolute(each) for each in value]
        else:
            spelled[name] = [absolute_location(each) for each in value]
    return spec.model_copy(update=spelled)


def _naming(spec: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield the fields that name places: locations, references, and lists of what has them."""
    for name, info in type(spec).model_fields.items():
        value = getattr(spec, name)
        names_places = isinstance(value, ReferenceSpec) or _is_nested(value)
        if names_places or (value is not None and _is_marked(info, LOCATION)):
            yield name, value


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, BaseModel) for each in value)  # pyright: ignore[reportUnknownVariableType]


def _is_marked(info: FieldInfo, mark: object) -> bool:
    alternatives = (getattr(each, "__metadata__", ()) for each in get_args(info.annotation))
    return mark in info.metadata or any(mark in each for each in alternatives)


def absolute_location(location: str) -> str:
    """Spell out a local path or ``file:`` URI as an absolute path; leave another URI as it is.

    Raises InvalidInput for a scheme that is not one of storage.SCHEMES, and as local_path does.
    """
    if storage.scheme(location) != "file":
        return location
    return str(storage.local_path(location))


def absolute_model(model: str) -> str:
    """Spell out the path of ``local-dir:PATH``; leave another name of a model as it is."""
    if not model.startswith(LOCAL_DIR):
        return model
    return LOCAL_DIR + absolute_location(model.removeprefix(LOCAL_DIR))


def absolute_weights(pretrained: str | None) -> str | None:
    """Spell out the path of a file of weights; leave one of open_clip's tags as it is."""
    return absolute_location(pretrained) if pretrained and is_local(pretrained) else pretrained


def is_local(pretrained: str) -> bool:
    """Whether weights are given by their file or folder; otherwise it is one of open_clip's tags.

    A folder's path has a slash in it: one that is just here may be called like a tag.
    """
    if storage.scheme(pretrained) != "file":
        return False
    path = storage.local_path(pretrained)
    try:
        return path.is_file() or ("/" in pretrained and path.is_dir())
    except OSError:  # as with a name that is too long for a file
        return False
