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
from rhocache_service.registry.jobs import Registry

from ..service.made import SHARD, completed, make_cache, picture


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


def test_a_committed_cache(url: str, root: Path, registry: Registry) -> None:
    captions = {"one": "a caption", "two": "another"}
    spec = make_cache(root / "made", captions, missing="one")
    row = completed(registry, spec)

    async def run() -> None:
        async with AsyncClient(url) as client:
            with Client(url) as other:
                ours, theirs = client.jobs, other.jobs
                new = spec.model_copy(update={"output": f"{root}/new"})
                assert await ours.validate(new) == theirs.validate(new)
                assert await ours.shards(row.id) == theirs.shards(row.id)
                assert await ours.errors(row.id) == theirs.errors(row.id)
                assert await ours.manifest(row.id) == theirs.manifest(row.id)
                (cache,) = (await client.caches.list()).data
                manifest = await client.caches.manifest(cache.id)
                assert manifest == other.caches.manifest(cache.id)
                pairs = await client.caches.pairs(cache.id, order="highest")
                assert pairs == other.caches.pairs(cache.id, order="highest")
                for ones, others in (
                    (ours.iterate(), theirs.iterate()),
                    (ours.iterate_shards(row.id), theirs.iterate_shards(row.id)),
                    (ours.iterate_errors(row.id), theirs.iterate_errors(row.id)),
                    (client.caches.iterate(), other.caches.iterate()),
                    (client.caches.iterate_pairs(cache.id), other.caches.iterate_pairs(cache.id)),
                ):
                    assert [each async for each in ones] == list(others)
            assert await client.caches.picture(cache.id, SHARD, 1) == picture(1)
            parts = [part async for part in client.caches.download(cache.id, "manifest.json")]
            assert b"".join(parts) == manifest.to_json()
            assert (await client.caches.keep(cache.id, 2 * 10**9)).expires_at == 2 * 10**9
            await client.caches.delete(cache.id)
            assert (await client.caches.list()).data == []
            for refused in (
                client.jobs.delete("job_0"),
                client.caches.delete(cache.id),
                client.caches.picture(cache.id, SHARD, 9),
                anext(aiter(client.caches.download(cache.id, "shards/absent.parquet"))),
                anext(aiter(client.jobs.events("job_0"))),
            ):
                with pytest.raises(ServiceError) as caught:
                    await refused
                assert caught.value.problem is not None
                assert caught.value.problem.status == 404

    asyncio.run(run())


async def collect(client: AsyncClient, job: str) -> list[str]:
    return [str(seen.status) async for seen in client.jobs.watch(job)]


async def happenings(client: AsyncClient, job: str) -> list[str]:
    return [event.data.status async for event in client.jobs.events(job)]
