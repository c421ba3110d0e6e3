"""A target with its reference: what was measured of them, and what follows for a whole training."""

from statistics import median

from rhocache_schemas.documents import Strict


class Cost(Strict):
    """Seconds a pair, of rounds in which the contestants took turns."""

    target: str
    reference: str
    batch: int
    machine: str
    plain: list[float]  # a training step without a reference
    cached: list[float]  # steered by a cache
    live: list[float]  # the same, with the reference in the loop
    scoring: list[float]  # once, for the cache: reading, decoding, both towers, writing
    stored: float  # bytes a pair, in float16

    def of_plain(self, measured: list[float]) -> float:
        """Of a step, in steps without a reference, compared within the rounds."""
        return median(one / none for one, none in zip(measured, self.plain, strict=True))

    @property
    def scoring_of_plain(self) -> float:
        """In steps without a reference; it was not measured in their rounds."""
        return median(self.scoring) / median(self.plain)

    def total(self, epochs: float, way: str) -> float:
        """Of a training, the cache included, in epochs without a reference."""
        if way == "cached":
            return self.scoring_of_plain + epochs * self.of_plain(self.cached)
        return epochs * self.of_plain(self.live)

    @property
    def break_even(self) -> float:
        """Epochs from which on the cache is cheaper than a live reference."""
        return self.scoring_of_plain / (self.of_plain(self.live) - self.of_plain(self.cached))
