"""JSON documents: strict, versioned, and read with errors that a person understands."""

import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidDocument, UnsupportedVersion

FORMAT_VERSION = "1.0"
CACHE_FORMAT = "2.0"  # of what lies in a cache and its readers go by
_READABLE = r"^[01]\.[0-9]+$"
_READABLE_CACHE = r"^[012]\.[0-9]+$"

Location = Annotated[str, Field(min_length=1), AfterValidator(storage.plain)]  # a path or URI


class Strict(BaseModel):
    """Immutable, and any field it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Document(Strict):
    """A versioned JSON file. Readers refuse a newer major version rather than misread it."""

    newest: ClassVar[str] = FORMAT_VERSION
    format_version: Annotated[str, Field(json_schema_extra={"pattern": _READABLE})] = FORMAT_VERSION

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """Read a document; ``source`` is what the error messages call it.

        Raises InvalidDocument, or UnsupportedVersion for a newer major version.
        """
        try:
            content: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidDocument(f"{source} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise InvalidDocument(f"{source} holds no JSON object")
        check_version(content.get("format_version", cls.newest), source, cls.newest)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise InvalidDocument(f"{source}: {describe(error)}") from error

    @classmethod
    def read(cls, uri: str) -> Self:
        return cls.parse(storage.read_bytes(uri), uri)

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


class CacheDocument(Document):
    """A document that has the version of the cache format."""

    newest: ClassVar[str] = CACHE_FORMAT
    format_version: Annotated[str, Field(json_schema_extra={"pattern": _READABLE_CACHE})] = (
        CACHE_FORMAT
    )


def check_version(version: object, source: str, newest: str = FORMAT_VERSION) -> None:
    """Refuse a ``major.minor`` version whose major part is newer than this software's."""
    major, _, minor = str(version).partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise InvalidDocument(f"{source}: format_version {version!r} is not of the form '1.0'")
    if int(major) > int(newest.partition(".")[0]):
        raise UnsupportedVersion(
            f"{source} has format version {version}; this rhocache reads up to {newest}: "
            "use a newer rhocache"
        )


def describe(error: ValidationError) -> str:
    """All faults of a validation on one line, each with the field that has it."""
    told = {"extra_forbidden": "unknown field", "string_unicode": "{input!r} is not UTF-8"}
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'document'}: "
        + told.get(fault["type"], fault["msg"]).format_map(fault)
        for fault in error.errors()
    )
