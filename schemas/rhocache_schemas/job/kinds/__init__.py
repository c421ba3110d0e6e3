"""The kinds of jobs: the modules of this package, and those that installed packages bring.

A kind is a module of the same name in three packages: its spec here, how the service treats it in
``rhocache_service.jobs.kinds``, and what its driver runs in ``rhocache_workers.kinds``. Another
package brings a kind by entry points of these three names. So a kind is added by who installs
software where rhocache runs; a spec chooses one by its name, and never names code.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Annotated, Any, ClassVar, TypeVar, Union, cast

from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, ValidationError
from pydantic_core import InitErrorDetails

from rhocache_schemas.documents import Document
from rhocache_schemas.job.spec import JobSpec

Model = TypeVar("Model", bound=BaseModel)

DEFAULT = "score"  # of a spec that names no kind, as all did when there was one


def installed(package: str, attribute: str) -> dict[str, EntryPoint]:
    """Return a room's part of each kind, to ``load()``: ``attribute`` of a module of ``package``,
    or an entry point of the group that is called like the package."""
    own = {
        module.name: EntryPoint(module.name, f"{package}.{module.name}:{attribute}", package)
        for module in iter_modules(import_module(package).__path__)
    }
    return {point.name: point for point in entry_points(group=package)} | own


def by_kind(
    types: Mapping[str, type[Model]], other: type[Model] | None = None
) -> Callable[[Any], Model]:
    """Return what validates a document as the one of ``types`` that its ``kind`` names.

    Where it names none of them it becomes an ``other``; without it ValidationError is raised.
    """
    known = tuple(types.values()) if other is None else (*types.values(), other)

    def validate(given: Any) -> Model:
        if isinstance(given, known):
            return given
        fields = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        kind = fields.get("kind", DEFAULT)
        found = types.get(str(kind), other)
        if found is not None:
            return found.model_validate(given)
        expected = {"expected": " or ".join(map(repr, sorted(types)))}
        fault: InitErrorDetails = {
            "type": "literal_error",
            "loc": ("kind",),
            "input": kind,
            "ctx": expected,
        }
        raise ValidationError.from_exception_data("JobSpec", [fault])

    return validate


def either(types: Iterable[type[BaseModel]]) -> Any:
    """Return the union of types that are known at run time alone."""
    return Union[tuple(types)]  # noqa: UP007


class UnknownKind(JobSpec, extra="allow"):
    """A spec of a kind that is not installed here: a client, or a later service, may see one."""

    kind: str


KINDS: dict[str, type[JobSpec]] = {
    name: point.load() for name, point in installed(__name__, "Spec").items()
}
read_spec = by_kind(KINDS, UnknownKind)
_ANY = either([*KINDS.values(), UnknownKind])
AnySpec = Annotated[
    JobSpec,
    PlainValidator(read_spec, json_schema_input_type=_ANY),
    PlainSerializer(lambda spec: spec, return_type=_ANY),
]


class JobOrder(Document):
    """``job.json`` in a driver's working folder: what a service asks it to do."""

    FILE: ClassVar = "job.json"

    job: Annotated[str, Field(description="the service's id")]
    start: Annotated[int, Field(ge=1, description="which of the job's drivers this is for")]
    spec: AnySpec
    roots: Annotated[list[str], Field(description="places that the job may name")]
