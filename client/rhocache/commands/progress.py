"""Shows the progress of a scoring job: a bar on a terminal, a line now and then otherwise."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rhocache_schemas.api import Job
from rhocache_schemas.cache.documents import Progress as RunProgress

LINE_SECONDS = 10.0

# Progress goes to standard error: standard output is for results.
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Seen:
    phase: str
    shards_ended: int
    shards_total: int
    pairs: int
    failed: int
    rate: float
    seconds_left: float | None

    @classmethod
    def of_run(cls, run: RunProgress) -> Self:
        return cls(
            run.phase,
            run.shards_committed + run.shards_failed,
            run.shards_total,
            run.pairs_done,
            run.pairs_failed,
            run.pairs_per_second,
            run.seconds_left,
        )

    @classmethod
    def of_job(cls, job: Job) -> Self:
        pairs, shards = job.request_counts, job.shard_counts
        return cls(
            job.status,
            shards.committed + shards.failed,
            shards.total or 0,
            pairs.completed + pairs.failed,
            pairs.failed,
            job.progress.pairs_per_second,
            job.progress.seconds_left,
        )

    def __str__(self) -> str:
        text = f"{self.pairs} pairs"
        if self.failed:
            text += f", {self.failed} failed"
        if self.rate:
            text += f", {self.rate:.1f}/s"
        if self.seconds_left:
            text += f", {duration(self.seconds_left)} left"
        return text


class ShardProgress:
    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards  {task.fields[seen]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, seen="")
        self._phase = ""
        self._said = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, seen: Seen) -> None:
        self._bar.update(
            self._task,
            description=seen.phase,
            completed=seen.shards_ended,
            total=seen.shards_total or None,
            seen=str(seen),
        )
        now = time.monotonic()
        if console.is_terminal or (seen.phase == self._phase and now - self._said < LINE_SECONDS):
            return
        self._phase, self._said = seen.phase, now
        shards = f"{seen.shards_ended}/{seen.shards_total or '?'} shards"
        console.print(f"{seen.phase}: {shards}, {seen}", highlight=False)


def duration(seconds: float) -> str:
    """As in 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
