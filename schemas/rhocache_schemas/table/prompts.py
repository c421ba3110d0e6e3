"""The table of class prompts: a reference's embedding of each class, for zero-shot."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.errors import FingerprintMismatch, InvalidInput, MissingPair
from rhocache_schemas.job.kinds.prompts import PromptsSpec, Templates
from rhocache_schemas.table import files
from rhocache_schemas.table.reader import TableReader

FILE = "prompts.parquet"
REFERENCE = "reference"  # the input that says which reference has embedded them
_NAMED = 10  # classes that an error lists


@dataclass(frozen=True, slots=True)
class Prompts:
    names: list[str]
    templates: Templates | None  # their name; None for those of a file
    vectors: npt.NDArray[np.float32]  # [classes, d], unit

    def to_table(self) -> pa.Table:
        flat: Any = pa.array(self.vectors.reshape(-1))
        vectors: Any = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        return pa.table({"name": pa.array(self.names), "embedding": vectors})

    def missing(self, uri: str, name: str, images: int | None = None) -> MissingPair:
        """The error that tells of a class that is not among them, which so many images have."""
        which = "" if images is None else f", which {images} images have"
        return MissingPair(
            f"{uri} has no prompt for the class {name!r}{which}; it has {len(self.names)} classes: "
            f"{some_of(self.names)}"
        )


def some_of(names: Sequence[str]) -> str:
    """The names of classes, of many the first, as an error lists them."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def reference_of(fingerprint: Fingerprint) -> str:
    """SHA-256 of what in a fingerprint says how a text is embedded, before it is stored."""
    plain: dict[str, Any] = {"caption_field": None, "views": 1, "dtype": "float32"}
    return fingerprint.model_copy(update=plain).digest


def templates_of(spec: PromptsSpec) -> Templates | None:
    return None if spec.templates_file is not None else spec.templates


def read_prompts(uri: str, cache: str, manifest: Manifest) -> Prompts:
    """Read a table of class prompts, to be used with images of ``cache``, whose manifest this is.

    Raises what TableReader.open raises, InvalidInput for a table of another kind, and
    FingerprintMismatch where another reference has embedded them.
    """
    table = TableReader.open(uri)
    spec = table.manifest.spec
    if not isinstance(spec, PromptsSpec):
        raise InvalidInput(
            f"{uri} is a table of the kind {spec.kind}, not one of class prompts: "
            "make those with `rhocache prompts`"
        )
    if table.manifest.inputs[REFERENCE] != reference_of(manifest.fingerprint):
        raise FingerprintMismatch(
            f"{uri} and {cache} were made by different references: embed the prompts with the "
            "reference of the cache, by `rhocache prompts` over it"
        )
    found = files.decode(table.file(FILE), None, uri)
    vectors = cast("Any", found["embedding"].combine_chunks())
    flat = vectors.flatten().to_numpy()
    names = cast("list[str]", found["name"].to_pylist())
    return Prompts(names, templates_of(spec), flat.reshape(len(names), -1))
