"""What a job is asked that chooses pairs of a cache, for training and for further jobs."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.job.spec import Ask, Location

SIMILARITY, NEG_CLIP_LOSS, NORM_SIM = "similarity", "negcliploss", "normsim"
COMPUTED = (SIMILARITY, NEG_CLIP_LOSS, NORM_SIM)  # columns that no table is needed for


class Quantile(Strict):
    quantile: Annotated[float, Field(ge=0, le=1)]


def _tag(end: Any) -> str:
    return "quantile" if isinstance(end, dict | Quantile) else "number"


End = Annotated[
    Annotated[float, Tag("number")] | Annotated[Quantile, Tag("quantile")],
    Discriminator(_tag),  # so that an error tells of one of them alone
]


class Condition(Strict):
    """A column's values between two ends, themselves included: ``COLUMN=LOW:HIGH`` as a text.

    An end is a number, a quantile as in ``q0.7``, or none. Quantiles are of the pairs that the
    conditions before have left.
    """

    column: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=64)]
    low: End | None = None
    high: End | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        column, equals, ends = given.partition("=")
        low, colon, high = ends.partition(":")
        if not (equals and colon):
            raise ValueError(
                f"{given!r} is not of the form COLUMN=LOW:HIGH, as in similarity=0.2: or "
                "negcliploss=q0.7:"
            )
        return {"column": column, "low": _read_end(low), "high": _read_end(high)}

    def __str__(self) -> str:
        return f"{self.column}={_write_end(self.low)}:{_write_end(self.high)}"


class SelectSpec(CacheJobSpec):
    """Choose pairs of a cache by rules, and write which."""

    kind: Literal["select"] = "select"
    only: Annotated[
        Location | None,
        Field(description="Choose among the pairs of this earlier selection; default: all."),
    ] = None
    where: Annotated[
        list[Condition],
        Field(
            max_length=32,
            default_factory=list,
            description="Keep pairs whose value is between LOW and HIGH, numbers or quantiles as "
            "q0.7; either may be left out. COLUMN: similarity, negcliploss, normsim, or one of the "
            "table's.",
        ),
        Ask(metavar="COLUMN=LOW:HIGH"),
    ]
    table: Annotated[
        Location | None,
        Field(
            description="Where other columns are: a table of this cache, or a Parquet file with "
            "shard and key."
        ),
    ] = None
    tau: Annotated[
        float | None,
        Field(
            ge=1e-4,
            le=1e4,
            description="Of negcliploss: temperature; default: the reference's own.",
        ),
    ] = None
    batch: Annotated[
        int, Field(ge=2, le=2**20, description="Of negcliploss: pairs in a random batch.")
    ] = 32_768
    batches: Annotated[
        int, Field(ge=1, le=1000, description="Of negcliploss: how many a pair is in.")
    ] = 10
    target: Annotated[
        Location | None,
        Field(description="Of normsim: a cache, by the same reference, of images to be like."),
    ] = None
    norm: Annotated[
        Literal["2", "inf"],
        Field(description="Of normsim: of the cosines with all target images. inf: the nearest."),
    ] = "inf"
    duplicates: Annotated[
        Location | None,
        Field(
            description="Keep the most similar pair of each group of this neighbours table alone."
        ),
    ] = None
    size: Annotated[
        int | None,
        Field(ge=1, description="Keep so many at random, of what the other rules have left."),
    ] = None
    clusters: Annotated[
        int | None,
        Field(ge=2, le=2**20, description="Of size: balance it over so many clusters of images."),
    ] = None
    exponent: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Of clusters: how many of one are kept goes with its number of pairs to "
            "this power. 1: in proportion; 0: as many of each, as far as there are.",
        ),
    ] = 0.5
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of all that is random.")] = 0
    uids: Annotated[
        Location | None,
        Field(
            description="Write DataComp's uids of the selection too: the folder that has each "
            "tar's Parquet, with key and uid."
        ),
    ] = None

    def check_rules(self) -> None:
        """Raise InvalidInput for a rule that lacks what it needs, and where there is none."""
        needed = {condition.column for condition in self.where}
        others = sorted(needed - set(COMPUTED))
        if others and self.table is None:
            raise InvalidInput(
                f"column {others[0]!r} is none of {', '.join(COMPUTED)}: give the table that has it"
            )
        if NORM_SIM in needed and self.target is None:
            raise InvalidInput(f"{NORM_SIM} needs a target, the cache of images to be like")
        if self.clusters is not None and self.size is None:
            raise InvalidInput("clusters need a size, how many pairs are kept of all of them")
        if not (self.where or self.duplicates or self.size):
            raise InvalidInput("a selection needs a rule: where, duplicates or size")


Spec = SelectSpec


def _read_end(text: str) -> Any:
    if text.startswith("q"):
        return {"quantile": text[1:]}
    return text or None


def _write_end(end: End | None) -> str:
    if end is None:
        return ""
    return f"q{end.quantile!r}" if isinstance(end, Quantile) else repr(end)
