"""Three services that share a queue in PostgreSQL, and are killed or restarted."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rhocache import Client
from rhocache_schemas.api import Job
from rhocache_schemas.events import Event
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database
from rhocache_service.scheduling.embedded_ray import EmbeddedRay
from rhocache_service.settings import Settings

from .conftest import EXAMPLES, Service, wait_until
from .reverse_proxy import Proxy

JOBS = 6


@pytest.fixture(scope="module")
def ray(work: Path) -> Iterator[EmbeddedRay]:
    """A Ray that asks for a token, and that none of the services has started."""
    (work / "shared").mkdir()
    code = (
        "import pathlib, sys; from rhocache_service.scheduling import embedded_ray; "
        "embedded_ray.START_SECONDS = 1000; "
        "embedded_ray.EmbeddedRay(pathlib.Path(sys.argv[1])).ensure_running()"
    )
    # Drivers are started with the cluster's own "python": let that be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-c", code, work / "shared"]
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})
    ray = EmbeddedRay(work / "shared")
    yield ray
    ray.stop()


@pytest.fixture(scope="module")
def services(
    work: Path, reference_folder: Path, ray: EmbeddedRay, postgres: Any
) -> Iterator[list[Service]]:
    postgres.psql("CREATE DATABASE replicas;")
    flags = [
        f"--database-url={postgres.get_uri('replicas').replace('postgresql:', 'postgres:')}",
        f"--ray-address={ray.ensure_running()}",
        f"--allow-root={work}",
        f"--allow-root={reference_folder.parent}",
        "--max-running-jobs=2",
    ]
    token = ray.headers["Authorization"].removeprefix("Bearer ")
    made = [
        Service(work / f"replica-{number}", *flags, environment={"RHOCACHE_RAY_TOKEN": token})
        for number in range(3)
    ]
    for service in made:
        service.data_dir.mkdir()
        service.start()
    yield made
    for service in made:
        service.kill()


def drivers(ray: EmbeddedRay, jobs: list[Job]) -> list[str]:
    """The submission ids that Ray has been given for these jobs."""
    answer = httpx.get(f"{ray.ensure_running()}/api/jobs/", headers=ray.headers)
    given = (job["submission_id"] or "" for job in answer.json())
    return sorted(each for each in given if each.rpartition("-")[0] in {job.id for job in jobs})


def submit(
    urls: list[str], work: Path, name: str, reference_folder: Path, count: int = JOBS
) -> list[Job]:
    """Jobs of one shard, to each service in turn."""
    (work / "few").mkdir(exist_ok=True)
    shutil.copy(EXAMPLES / "00000.tar", work / "few")
    jobs: list[Job] = []
    for number in range(count):
        with Client(urls[number % len(urls)]) as client:
            jobs.append(
                client.jobs.submit(
                    dataset=str(work / "few"),
                    output=str(work / f"{name}-{number}"),
                    reference={"model": f"local-dir:{reference_folder}"},
                    workers=1,
                )
            )
    return jobs


def test_no_job_is_started_twice_and_none_is_lost(
    services: list[Service],
    ray: EmbeddedRay,
    work: Path,
    reference_folder: Path,
    postgres: Any,
) -> None:
    jobs = submit([service.url for service in services], work, "cache", reference_folder)
    registry = Registry(
        open_database(Settings(database_url=postgres.get_uri("replicas")).registry_url)
    )
    # Kill each service once while jobs go on, whoever leads, and let it come back.
    for service in services:
        before = sum(row.state.terminal for row in registry.newest(JOBS))
        wait_until(
            lambda before=before: (
                sum(row.state.terminal for row in registry.newest(JOBS)) > min(before, JOBS - 1)
            ),
            service.log,
        )
        service.kill()
        time.sleep(1)
        service.start()
    wait_until(lambda: all(row.state.terminal for row in registry.newest(JOBS)), services[0].log)
    rows = registry.newest(JOBS)
    registry.close()
    assert {row.status for row in rows} == {"completed"}, [row.error_detail for row in rows]
    assert drivers(ray, jobs) == sorted(f"{job.id}-1" for job in jobs)
    caches = [work / f"cache-{number}" for number in range(JOBS)]
    written = {(cache / "shards" / "00000.tar.parquet").read_bytes() for cache in caches}
    assert len(written) == 1
    for cache in caches:
        assert json.loads((cache / "manifest.json").read_bytes())["ok"] == 512


def test_a_rolling_restart_is_not_noticed(
    services: list[Service], ray: EmbeddedRay, work: Path, reference_folder: Path
) -> None:
    """Behind a proxy that sends nothing to a replica that is about to be restarted."""
    proxy = Proxy(services[-1].url)
    with proxy.running() as url, ThreadPoolExecutor() as threads:
        jobs = submit([url], work, "rolling", reference_folder, count=3)

        def follow(job: Job) -> list[Event]:
            with Client(url) as client:
                return list(client.jobs.events(job.id))

        def watch(job: Job) -> Job:
            with Client(url) as client:
                return list(client.jobs.watch(job.id))[-1]

        followed = [threads.submit(follow, job) for job in jobs]
        watched = [threads.submit(watch, job) for job in jobs]
        for number, service in enumerate(services):
            proxy.upstream = services[number - 1].url
            service.stop()
            service.start()
        ended = [each.result() for each in watched]
        told = [each.result() for each in followed]
    assert {job.status for job in ended} == {"completed"}
    for events in told:
        assert [event.id for event in events] == sorted({event.id for event in events})
        assert sum(event.event == "shard.committed" for event in events) == 1
    assert drivers(ray, jobs) == sorted(f"{job.id}-1" for job in jobs)
