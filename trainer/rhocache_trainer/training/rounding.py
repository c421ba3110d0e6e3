"""Tells where a cache's rounding moves what training sees of it."""

import logging
from collections.abc import Iterable

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.text import printable

log = logging.getLogger(__name__)

# Of r_ij / τ, which stands in an exponent: 99 of 100 weights are then within 5 %. float16 is at
# most 0.009 off at the smallest τ there is, 0.01; bfloat16, which is not offered, would be 0.075.
BOUND = 0.05


class RoundingWatch:
    """Warns once where the similarities of one of the caches are too coarse for a temperature."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self._p99, self._dtype = 0.0, ""
        for manifest in manifests:
            rounding = manifest.total_rounding
            if rounding is not None and rounding.similarity.p99 > self._p99:
                self._p99, self._dtype = rounding.similarity.p99, manifest.fingerprint.dtype

    def look(self, tau: float | None) -> None:
        """Look at the temperature that training has come to."""
        if not tau or self._p99 <= BOUND * tau:
            return
        told = (
            f"the cache's embeddings in {self._dtype} are coarse for τ = {tau:.3g}: 1 of 100 "
            f"r/τ is off by more than {self._p99 / tau:.2g} (above {BOUND:g}), and its pair's "
            f"weight by as large a share; use a cache in float16, or τ ≥ {self._p99 / BOUND:.2g}"
        )
        log.warning("%s", printable(told))
        self._p99 = 0.0
