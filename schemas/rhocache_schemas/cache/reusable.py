"""The caches whose rows a scoring job takes instead of encoding the same pairs."""

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.allowed_roots import true_place
from rhocache_schemas.job.kinds.score import ScoreSpec


def open_reusable(spec: ScoreSpec) -> list[CacheReader]:
    """Open the caches that a job reuses, in its order.

    Raises InvalidInput where one is its own output, FingerprintMismatch as far as the job alone
    tells, and what ``CacheReader.open`` raises.
    """
    output = true_place(spec.output)
    for uri in spec.reuse:
        if true_place(uri) == output:
            raise InvalidInput(
                f"{uri} is the output itself, whose rows stay as they are: reuse other caches"
            )
    found = [CacheReader.open(uri) for uri in spec.reuse]
    for cache in found:
        made = cache.manifest.fingerprint
        made.check_reusable(made.asked_by(spec), cache.uri)
    return found
