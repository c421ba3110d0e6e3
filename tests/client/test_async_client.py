"""The asyncio client does what the other one does."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from rhocache import AsyncClient, Client
from rhocache.async_client import AsyncCaches, AsyncJobs
from rhocache.client import Caches, Jobs
from rhocache_schemas.errors import ServiceError


@pytest.mark.parametrize(
    ("one", "other"), [(Client, AsyncClient), (Jobs, AsyncJobs), (Caches, AsyncCaches)]
)
def test_both_have_the_same_methods(one: type, other: type) -> None:
    def public(kind: type) -> dict[str, Any]:
        return {
            name: list(inspect.signature(value).parameters.values())
            for name, value in vars(kind).items()
            if callable(value) and not name.startswith("_")
        }

    assert public(one) == public(other)


def test_a_job_from_its_submission_to_its_end(url: str, root: Path) -> None:
    async def run() -> None:
        async with AsyncClient(url) as client:
            job = await client.jobs.submit(
                dataset=f"{root}/data",
                output=f"{root}/async",
                reference={"model": f"local-dir:{root}/model"},
                priority=3,
            )
            assert (await client.jobs.get(job.id)) == job
            assert (await client.jobs.list(limit=1)).data == [job]
            assert job.id not in {cache.job for cache in (await client.caches.list()).data}
            assert "ViT-B-32" in {model.id for model in (await client.models()).data}
            watching = asyncio.create_task(collect(client, job.id))
            listening = asyncio.create_task(happenings(client, job.id))
            await asyncio.sleep(0.5)
            await client.jobs.cancel(job.id)
            assert (await watching)[-1] == "cancelled"
            assert await listening == ["validating", "cancelling", "cancelled"]
            again = await client.jobs.retry(job.id)
            assert again.retries == job.id
            await client.jobs.delete(job.id)
            with pytest.raises(ServiceError) as caught:
                await client.jobs.get(job.id)
            assert caught.value.problem is not None
            assert caught.value.problem.status == 404

    asyncio.run(run())


async def collect(client: AsyncClient, job: str) -> list[str]:
    return [str(seen.status) async for seen in client.jobs.watch(job)]


async def happenings(client: AsyncClient, job: str) -> list[str]:
    return [event.data["status"] async for event in client.jobs.events(job)]
