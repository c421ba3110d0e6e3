"""Times the stages of an encoder, and names the one that limits a run."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Stage -> what people call it.
NAMES = {
    "read": "reading the dataset",
    "reuse": "taking rows of other caches",
    "decode": "decoding images",
    "image": "image tower",
    "text": "text tower",
    "write": "writing the cache",
}
TOWERS = ("image", "text")


@dataclass
class Stages:
    """Seconds that stages were busy. Each can be busy for ``elapsed`` seconds, decoding for
    ``decoders`` times that."""

    decoders: int = 1  # threads
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:  # it is sent from encoders to the driver
        return {"decoders": self.decoders, "elapsed": self.elapsed, "seconds": self.seconds}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @contextmanager
    def busy(self, stage: str) -> Generator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - started)

    def add_seconds(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add(self, other: "Stages") -> None:
        """Count in another encoder's or another shard's."""
        self.decoders = other.decoders
        self.elapsed += other.elapsed
        for stage, seconds in other.seconds.items():
            self.add_seconds(stage, seconds)

    def shares(self) -> dict[str, float]:
        """Stage -> the part of the time that it was busy, from 0 to 1."""
        if not self.elapsed:
            return {}
        return {
            stage: seconds / self.elapsed / (self.decoders if stage == "decode" else 1)
            for stage, seconds in self.seconds.items()
        }

    def __str__(self) -> str:
        """As in ``image tower, 93% busy (text tower 4%, decoding images 3%, idle 2%)``."""
        shares = sorted(self.shares().items(), key=lambda item: -item[1])
        if not shares:
            return "nothing"
        (first, share), *rest = shares
        idle = 1 - sum(share for stage, share in shares if stage in TOWERS)
        others = [f"{NAMES[stage]} {share:.0%}" for stage, share in rest]
        others.append(f"towers idle {max(0.0, idle):.0%}")
        return f"{NAMES[first]}, {share:.0%} busy ({', '.join(others)})"
