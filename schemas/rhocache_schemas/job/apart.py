"""Whether the references of one scoring job, and the caches that they fill, are apart."""

from itertools import combinations

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.allowed_roots import is_under, true_place
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.names import reference_name


def check_apart(spec: ScoreSpec) -> None:
    """Refuse a job that names a reference twice, or an output in another, or what it can't do of
    several references.

    Raises InvalidInput.
    """
    if spec.also and spec.reuse:
        raise InvalidInput(
            f"rows of {spec.reuse[0]} are reused by jobs of one reference alone, and this one has "
            f"{1 + len(spec.also)}: score them in a job each, or leave reuse out"
        )
    for one, other in combinations(spec.each, 2):
        if one.reference == other.reference:
            raise InvalidInput(
                f"{reference_name(one.reference)} is named twice, for {one.output} and "
                f"{other.output}: a job needs each reference once"
            )
        ours, theirs = true_place(one.output), true_place(other.output)
        if is_under(ours, theirs) or is_under(theirs, ours):
            raise InvalidInput(
                f"the outputs {one.output} and {other.output} are one folder, or one lies in the "
                "other: each reference needs a cache of its own"
            )
