"""A driver of many encoders hears of all that is new in one wait."""

import time
from collections.abc import Iterator

import ray

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster.actor_pool import Crew

GENERATORS = 20


class Teller:
    def tell(self) -> Iterator[int]:
        yield 1
        time.sleep(3600)


def test_all_that_are_ready_come_at_once(spec: ScoreSpec, ray_address: str) -> None:
    with Crew(spec, ray_address, {}, lambda _: None) as crew:
        teller = ray.remote(Teller).options(num_cpus=0, max_concurrency=GENERATORS + 1).remote()
        tell = teller.tell.options(num_returns="streaming")
        refs = [tell.remote() for _ in range(GENERATORS)]
        idle = tell.remote()
        next(idle)  # it has nothing more
        crew._working = dict.fromkeys([*refs, idle])
        ray.wait(refs, num_returns=GENERATORS, fetch_local=False)
        assert crew._ready() == refs
        for ref in refs:
            assert ray.get(next(ref)) == 1
        assert crew._ready() == []
        ray.kill(teller)
