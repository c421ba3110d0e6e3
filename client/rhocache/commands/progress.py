"""Shows the progress of a scoring job: a bar on a terminal, a line now and then otherwise."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from rhocache_schemas.api import Job
from rhocache_schemas.cache.documents import Progress as RunProgress

LINE_SECONDS = 10.0

# Progress goes to standard error: standard output is for results.
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Seen:
    doing: str  # the step that goes on, or the state that a job is in
    since: float | None  # Unix seconds
    shards_ended: int
    shards_total: int
    pairs: int
    failed: int
    rate: float
    seconds_left: float | None

    @classmethod
    def of_run(cls, run: RunProgress) -> Self:
        step = run.steps[-1] if run.steps else None
        return cls(
            step.name if step else run.phase,
            step.started_at if step else None,
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
        step = job.progress.steps[-1] if job.progress.steps else None
        if step is not None and (step.ended_at is not None or job.status.terminal):
            step = None
        return cls(
            step.name if step else job.status.replace("_", " "),
            step.started_at if step else None,
            shards.committed + shards.failed,
            shards.total or 0,
            pairs.completed + pairs.failed,
            pairs.failed,
            job.progress.pairs_per_second,
            job.progress.seconds_left,
        )

    @property
    def counts(self) -> str:
        """Of shards and pairs, once there are any."""
        if not (self.shards_total and (self.pairs or self.shards_ended)):
            return ""
        text = f"{self.shards_ended}/{self.shards_total} shards, {self.pairs:,} pairs"
        if self.failed:
            text += f", {self.failed:,} failed"
        if self.rate:
            text += f", {self.rate:.1f}/s"
        if self.seconds_left:
            text += f", {duration(self.seconds_left)} left"
        return text


class _Step(ProgressColumn):
    """What goes on, and for how long."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        since: float | None = task.fields["since"]
        took = "" if since is None else f" {max(0, time.time() - since):.0f} s"
        return Text(f"{task.description}{took}")


class ShardProgress:
    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            _Step(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[counts]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, counts="", since=None)
        self._began = time.monotonic()
        self._doing = ""
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
            description=seen.doing,
            since=seen.since,
            completed=seen.shards_ended,
            total=seen.shards_total if seen.counts else None,
            counts=seen.counts,
        )
        now = time.monotonic()
        if console.is_terminal or (seen.doing == self._doing and now - self._said < LINE_SECONDS):
            return
        self._doing, self._said = seen.doing, now
        counts = f": {seen.counts}" if seen.counts else ""
        console.print(f"{duration(now - self._began)} {seen.doing}{counts}", highlight=False)


def duration(seconds: float) -> str:
    """As in 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
