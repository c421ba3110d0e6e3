"""What preemptions lose of a run's work.

    python -m benchmarks.spot
    python -m benchmarks.spot_nodes --grace 12

The first lets the driver's own scheduling hand out a day's shards to 50 encoders that embed
nothing, on a clock of its own (``benchmarks/virtual_ray.py``), and takes some minutes a table. The
second does the same to a few nodes of a real Ray, for minutes.
"""

import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.virtual_ray import Fleet, VirtualRay
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.cluster.actor_pool import Crew
from rhocache_workers.messages import CommittedShard, ShardInProgress

RATE = 100.0  # pairs a second; only the seconds of a shard matter
GRACE = [0.0, 30.0, 120.0]
SHARD = [10.0, 30.0, 60.0, 120.0, 180.0, 300.0]
SPEC = ScoreSpec(
    dataset="/dataset", output="/cache", reference=ReferenceSpec(model="local-dir:/none")
)


@dataclass(frozen=True, slots=True)
class Day:
    preempted: int  # nodes
    encoded: float  # pairs
    committed: list[int]  # pairs of each shard that was

    @property
    def lost(self) -> float:
        return 1 - sum(self.committed) / self.encoded


def day(fleet: Fleet, seconds: float, hours: float, seed: int) -> Day:
    """Hand out shards that take an encoder so many seconds each, for so many hours."""
    world = VirtualRay(fleet, seed)
    world.install()
    count = int(1.5 * hours * 3600 / seconds * fleet.nodes) + fleet.nodes
    sizes = (int(seconds * RATE * world.random.uniform(0.8, 1.2)) for _ in range(count))
    shards = [Shard(f"{n}.tar", f"/{n}.tar", size, 0) for n, size in enumerate(sizes)]
    with Crew(SPEC, None, {}, lambda _: None) as crew:
        crew.describe()
        for event in crew.encode(shards):
            if not isinstance(event, CommittedShard | ShardInProgress):
                raise SystemExit(f"a shard failed: {event}")
            if world.now > hours * 3600:
                break
        # Before the crew ends, and what it is at with it.
        return Day(world.preempted, world.encoded, list(world.committed.values()))


def main(
    grace: Annotated[list[float], typer.Option(help="Seconds; may be given again.")] = GRACE,
    shard: Annotated[list[float], typer.Option(help="Seconds; may be given again.")] = SHARD,
    nodes: int = 50,
    life: Annotated[float, typer.Option(help="Mean seconds until a node is to go.")] = 600,
    absence: Annotated[float, typer.Option(help="Seconds until another is there.")] = 60,
    loading: Annotated[float, typer.Option(help="Seconds until it encodes.")] = 30,
    spread: Annotated[float, typer.Option(help="Of the rate, from shard to shard.")] = 0.1,
    hours: float = 24,
    seed: int = 0,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    console, started = Console(), time.perf_counter()
    lost: dict[tuple[float, float], float] = {}
    preempted = 0
    for seconds, notice in product(shard, grace):
        fleet = Fleet(nodes, life, notice, absence, loading, RATE, spread)
        run = day(fleet, seconds, hours, seed)
        lost[seconds, notice] = run.lost
        preempted += run.preempted
        kept = sum(run.committed) / (nodes * RATE * hours * 3600)
        console.print(
            f"shards of {seconds:g} s, {notice:g} s of notice: {lost[seconds, notice]:.2%} lost, "
            f"{run.preempted} preempted, {len(run.committed)} shards, "
            f"{kept:.1%} of what nodes that stay would do",
            highlight=False,
        )
    head = ["seconds a shard", *(f"{notice:g} s of notice" for notice in grace)]
    lines = [[f"{s:g}", *(f"{lost[s, notice]:.2%}" for notice in grace)] for s in shard]
    table = Table(*head, box=None)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(f"{preempted} preemptions, {time.perf_counter() - started:.0f} s")
    if out is not None:
        rows = [head, ["---"] * len(head), *lines]
        Path(out).write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))


if __name__ == "__main__":
    typer.run(main)
