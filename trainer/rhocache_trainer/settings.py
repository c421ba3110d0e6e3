"""What a run's settings are made of: numbers within bounds, places, and one of several by name."""

from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler

from rhocache_schemas.documents import Strict

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Named(Strict):
    """Settings that are chosen by name. A subclass that can be chosen has a field

    name: Literal["drrho"] = "drrho"
    """

    @classmethod
    def known_as(cls) -> str | None:
        """Return the name, or None for a base of several that has none."""
        field = cls.model_fields.get("name")
        return None if field is None else field.default


@dataclass(frozen=True)
class ChosenFrom:
    """Says that a field takes one of the ``Named`` subclasses that the files of a package hold.

    ``Annotated[RiskConfig, ChosenFrom("rhocache_trainer.risk")]`` takes ``{name: cvar, k: 2}``, and
    ``cvar`` for ``{name: cvar}``. A new file in that package is found by itself.
    """

    package: str

    def __get_pydantic_core_schema__(
        self, source: type[Named], handler: GetCoreSchemaHandler
    ) -> Any:
        for file in iter_modules(import_module(self.package).__path__):
            import_module(f"{self.package}.{file.name}")
        kinds: Any = Union[tuple(_named(source))]  # noqa: UP007 (known only now)
        one = Annotated[kinds, Field(discriminator="name")]
        return handler.generate_schema(Annotated[one, BeforeValidator(spelled_out)])


def _named(base: type[Named]) -> list[type[Named]]:
    own = [] if base.known_as() is None else [base]
    return sorted(
        [*own, *(each for kind in base.__subclasses__() for each in _named(kind))],
        key=lambda kind: str(kind.known_as()),
    )


def spelled_out(value: object) -> object:
    """Return ``{name: value}`` for a name alone."""
    return {"name": value} if isinstance(value, str) else value
