"""What a job did when: the states that it went through, and its driver's steps within them."""

import time
from dataclasses import dataclass

from rhocache_schemas.cache.documents import Step
from rhocache_service.registry.tables import JobRow
from rhocache_service.web.charts import place


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    seconds: float
    within: bool  # a step, of the driver while the job is in progress
    goes_on: bool
    # In percent of the whole time.
    left: float
    width: float


def timeline(row: JobRow, steps: list[Step]) -> list[Phase]:
    """List the states in their order, and after ``in progress`` the steps of the newest driver."""
    entered = sorted(row.times.items(), key=lambda item: item[1])
    ends = [at for _, at in entered[1:]] + [time.time()]
    spans = [
        (name, float(start), float(end), False, name == row.status)
        for (name, start), end in zip(entered, ends, strict=True)
    ]
    if row.state.terminal:
        spans.pop()  # an end takes no time
    stopped = spans[-1][2]  # steps of a driver that was killed have no end of their own
    driven = [
        (step.name, step.started_at, step.ended_at or stopped, True, not step.ended_at)
        for step in steps
    ]
    behind = next((n for n, span in enumerate(spans, 1) if span[0] == "in_progress"), len(spans))
    spans[behind:behind] = driven
    first, last = spans[0][1], max(span[2] for span in spans)
    return [
        Phase(
            name=name.replace("_", " "),
            seconds=max(0.0, end - start),
            within=within,
            goes_on=goes_on and not row.state.terminal,
            left=min(100.0, max(0.0, place(start, first, last))),
            width=max(0.4, place(max(start, end) - start, 0, last - first)),
        )
        for name, start, end, within, goes_on in spans
    ]
