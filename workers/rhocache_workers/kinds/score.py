"""The driver of a scoring job."""

from rhocache_schemas.job.kinds import JobOrder
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score


def run(spec: ScoreSpec, order: JobOrder) -> str:
    """Score. Raises as ``score`` does."""
    summary = score(spec, ray_address="auto", job=order.job, roots=order.roots)
    return f"{summary.ok} of {summary.rows} pairs scored"
