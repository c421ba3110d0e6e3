"""What every job over a cache is asked: which cache it reads, and where its table goes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from rhocache_schemas.job.spec import Ask, JobSpec, Location, Output


class CacheJobSpec(JobSpec):
    """The base of the specs of kinds that read a committed cache and write a table.

    The fields in ``how`` change nothing of what the table says; a kind adds its own to them. All
    others make its ``identity``.
    """

    how: ClassVar[frozenset[str]] = frozenset(
        {"format_version", "cache", "output", "metadata", "replace"}
    )

    cache: Annotated[
        Location,
        Field(description="The committed cache to read: a path or a URI."),
        Ask(argument=True),
    ]
    output: Annotated[Output, Field(description="The table's folder: a path or a URI.")]
    replace: Annotated[
        bool,
        Field(description="Give up what the output holds of another cache or other options."),
    ] = False

    @property
    def asked(self) -> dict[str, object]:
        """The fields that the table's values depend on, the kind among them."""
        return self.model_dump(mode="json", exclude=set(self.how))

    def identity(self, manifest_sha256: str, inputs: Mapping[str, str]) -> str:
        """SHA-256 of the canonical JSON of what a table depends on, in hexadecimal.

        That is what was asked, the cache by the SHA-256 of its manifest, and other ``inputs``, by
        their names, as hashes of what they hold. Tables of equal identities hold equal values.
        """
        canonical = json.dumps(
            {"asked": self.asked, "manifest": manifest_sha256, "inputs": dict(inputs)},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return hashlib.sha256(canonical.encode()).hexdigest()
