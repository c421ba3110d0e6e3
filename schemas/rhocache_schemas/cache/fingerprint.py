"""What the rows of a cache depend on, besides the shard itself."""

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from rhocache_schemas.dataset.source import OF_ROWS, Captions
from rhocache_schemas.documents import CacheDocument
from rhocache_schemas.errors import FingerprintMismatch, InvalidInput
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.views import Views
from rhocache_schemas.reference import Dtype, Precision

_LATER = set(OF_ROWS) - {"caption_field"}


class Fingerprint(CacheDocument):
    """Two runs with equal fingerprints write equal rows for equal shards.

    Software versions and the batch size are recorded in the manifest but are not part of it:
    they change embeddings by rounding only.
    """

    # Over names, dtypes, shapes and bytes of the named tensors; None where nobody has seen them.
    weights_sha256: str | None
    architecture: dict[str, Any]  # open_clip's model config
    preprocessing: dict[str, Any]  # open_clip's preprocess config
    tokenizer: dict[str, Any]  # its configuration and context length
    precision: Precision
    dtype: Dtype
    caption_field: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    key_column: str | None = None
    image_suffix: str | None = None
    caption_suffix: str | None = None
    captions: Captions = None  # of each pair at most
    # Of each image; their number alone where nobody has told how they are drawn.
    views: Views | Annotated[int, Field(ge=1)] = 1
    # What the rows were made of: pairs, another cache's rows, or embeddings that others computed.
    made_from: Literal["dataset", "cache", "embeddings"] = "dataset"

    @property
    def drawn(self) -> Views:
        """The views of each image, and how they are drawn. Raises InvalidInput where none knows."""
        if isinstance(self.views, Views):
            return self.views
        if self.views > 1:
            raise InvalidInput(
                f"the cache holds {self.views} views of each image, and does not say how they are "
                "drawn: set replay.order=none to augment images anew"
            )
        return Views()

    @property
    def view_count(self) -> int:
        return self.views if isinstance(self.views, int) else self.views.count

    @property
    def imported(self) -> bool:
        """Whether nobody has hashed the images and captions that the rows are of."""
        return self.made_from == "embeddings"

    @property
    def is_format_1(self) -> bool:
        return self.format_version[0] in "01"

    @model_serializer(mode="wrap")
    def _without_absent(self, plain: SerializerFunctionWrapHandler):  # a type would be the schema
        """As the first readers of format 1 know it, which hash and take no more than these."""
        fields: dict[str, Any] = plain(self)
        return {
            name: value for name, value in fields.items() if value is not None or name not in _LATER
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        canonical = json.dumps(
            self.model_dump(mode="json", exclude={"made_from"} if self.is_format_1 else None),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def check_options(self, spec: ScoreSpec) -> None:
        """Refuse a job for the cache with this fingerprint, as far as the job alone tells.

        Raises FingerprintMismatch, also for a cache of format 1, which is not written any more.
        """
        if self.is_format_1:
            raise FingerprintMismatch(
                f"{spec.output} is a cache of format {self.format_version}, which is read, but not "
                "written any more: score into another folder, or make it anew with --replace"
            )
        self.check_same(self.asked_by(spec), spec.output)

    def asked_by(self, spec: ScoreSpec) -> Self:
        """Return the fingerprint that a job asks for, as far as the job alone tells."""
        asked = {
            "precision": spec.reference.precision,
            "dtype": spec.dtype,
            **spec.source.of_rows,
            "views": spec.views.recorded,
            "made_from": "dataset",
        }
        return self.model_copy(update=asked)

    def check_same(self, other: "Fingerprint", cache: str) -> None:
        """Refuse ``other`` for a ``cache`` that was made with this fingerprint.

        Raises FingerprintMismatch, which names each differing field with both its values.
        """
        if differing := self._differing(other):
            raise FingerprintMismatch(
                f"{cache} was made with another fingerprint; differing: {differing}. "
                "Use another output folder, or the same reference and options"
            )

    def check_reusable(self, other: "Fingerprint", cache: str) -> None:
        """Refuse rows of a ``cache`` with this fingerprint for one that is made with ``other``.

        They may have been read elsewhere: whether a pair is the same is for its hashes to say.

        Raises FingerprintMismatch as check_same does.
        """
        if differing := self._differing(other, {*OF_ROWS, "format_version"}):
            raise FingerprintMismatch(
                f"the rows of {cache} can't be reused, as they are of another fingerprint; "
                f"differing: {differing}. Leave it out, or ask for the same reference and options"
            )

    def _differing(self, other: "Fingerprint", but: Collection[str] = ()) -> str:
        ours, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return ", ".join(
            f"{name} (cache: {_short(ours.get(name))}, now: {_short(theirs.get(name))})"
            for name in type(self).model_fields
            if name not in but and ours.get(name) != theirs.get(name)
        )


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
