"""The REST API."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from rhocache_schemas import layout, storage
from rhocache_schemas.api import Job, JobList, PairErrorList
from rhocache_schemas.documents import check_version
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job import JobSpec, JobState
from rhocache_schemas.locations import absolute, named_locations
from rhocache_schemas.records import Manifest
from rhocache_schemas.roots import check_allowed
from rhocache_service import problems, requests
from rhocache_service.pair_errors import pair_errors
from rhocache_service.problems import ProblemError
from rhocache_service.ray_cluster import RayCluster
from rhocache_service.reconciler import Reconciler
from rhocache_service.registry import JobRow, Registry
from rhocache_service.resources import job_resource
from rhocache_service.settings import Settings

log = logging.getLogger(__name__)

STEP_SECONDS = 0.5
TROUBLE_SECONDS = 5.0  # to wait after a step that failed as a whole


def create_app(settings: Settings) -> FastAPI:
    """Make the application.

    Raises StorageError when the registry can't be opened.
    """
    registry = Registry(settings.registry_url)
    cluster = RayCluster(settings)
    reconciler = Reconciler(registry, cluster.drivers, settings.roots, settings.max_running_jobs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.create_task(_keep_stepping(reconciler))
        yield
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
        # Jobs outlive the service, and so does the Ray that they run in.
        if registry.active():
            log.info("unfinished jobs go on in Ray; the next rhocache serve picks them up")
        else:
            await run_in_threadpool(cluster.stop)
        registry.close()

    app = FastAPI(
        title="rhocache",
        version="1",
        summary="Reference-model caches for DRRHO model steering",
        lifespan=lifespan,
    )
    app.state.registry, app.state.cluster, app.state.settings = registry, cluster, settings
    problems.install(app)
    requests.install(app, [settings.host, *settings.allow_host])
    _add_routes(app)
    return app


async def _keep_stepping(reconciler: Reconciler) -> None:
    while True:
        pause = TROUBLE_SECONDS
        try:
            await run_in_threadpool(reconciler.step)
            pause = STEP_SECONDS
        except RhocacheError as error:
            log.warning("jobs wait: %s", error)
        except Exception:
            log.exception("the reconciler failed; it goes on")  # else every job would stand still
        await asyncio.sleep(pause)


def _registry(request: Request) -> Registry:
    return request.app.state.registry


def _row(request: Request, job: str) -> JobRow:
    row = _registry(request).get(job)
    if row is None:
        raise ProblemError("not-found", f"no job {job!r}")
    return row


Found = Annotated[JobRow, Depends(_row)]
InRegistry = Annotated[Registry, Depends(_registry)]


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/jobs", status_code=202)
    def submit(spec: JobSpec, request: Request, registry: InRegistry, response: Response) -> Job:
        """Take a job: score a dataset with a reference into a cache."""
        check_version(spec.format_version, "the job spec")
        spec = absolute(spec)
        for location in named_locations(spec):
            check_allowed(location, request.app.state.settings.roots)
        job = job_resource(registry.add(spec))
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    @app.get("/v1/jobs")
    def list_jobs(
        registry: InRegistry,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        status: JobState | None = None,
    ) -> JobList:
        """List jobs, newest first; ``after`` is the last id of the page before."""
        last = None if after is None else registry.get(after)
        if after is not None and last is None:
            raise ProblemError("not-found", f"no job {after!r} to list after")
        rows = registry.newest(limit + 1, last, status)
        jobs = [job_resource(row) for row in rows[:limit]]
        return JobList(
            data=jobs,
            first_id=jobs[0].id if jobs else None,
            last_id=jobs[-1].id if jobs else None,
            has_more=len(rows) > limit,
        )

    @app.get("/v1/jobs/{job}")
    def get_job(row: Found) -> Job:
        """Give a job with its progress."""
        return job_resource(row)

    @app.post("/v1/jobs/{job}/cancel", status_code=202)
    def cancel(row: Found, registry: InRegistry) -> Job:
        """Stop a job. What it has committed stays, and a later job goes on from there."""
        return job_resource(registry.advance(row, JobState.CANCELLING))

    @app.get("/v1/jobs/{job}/errors")
    def errors(row: Found, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> PairErrorList:
        """List the shards and pairs that failed."""
        return pair_errors(row.spec["output"], limit)

    @app.get("/v1/jobs/{job}/manifest")
    def manifest(row: Found) -> Manifest:
        """Give the manifest of the cache that the job has committed."""
        uri = layout.manifest_file(row.spec["output"])
        if row.state is not JobState.COMPLETED or not storage.exists(uri):
            raise ProblemError("not-found", f"job {row.id} is {row.state}: it has no manifest yet")
        return Manifest.read(uri)

    @app.get("/livez")
    def livez() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz(request: Request, registry: InRegistry) -> dict[str, str]:
        """Whether the registry and Ray can be reached."""
        for name, ping in (
            ("registry", registry.ping),
            ("ray", request.app.state.cluster.ping),
        ):
            try:
                ping()
            except Exception as error:
                log.info("not ready, %s: %s", name, error)
                raise ProblemError("unavailable", f"{name} can't be reached") from error
        return {"status": "ok"}
