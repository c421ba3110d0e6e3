"""Builds the application, and runs the loops beside it that move jobs on."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from rhocache_schemas.errors import RhocacheError
from rhocache_service.api import caches, health, jobs, submissions, webhooks
from rhocache_service.caches.comparison import remember_comparisons
from rhocache_service.caches.images import Pictures
from rhocache_service.caches.similarity import remember_similarities
from rhocache_service.http import openapi, problems
from rhocache_service.http.middleware import HttpMiddleware
from rhocache_service.jobs.submit import Submissions
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.callers import Callers
from rhocache_service.registry.deliveries import Deliveries
from rhocache_service.registry.gauges import ServiceMetrics
from rhocache_service.registry.idempotency import Answers
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.notifier import Changes
from rhocache_service.registry.sessions import Sessions
from rhocache_service.registry.tables import open_database
from rhocache_service.scheduling.deletions import Deletions
from rhocache_service.scheduling.ray_cluster import RayCluster
from rhocache_service.scheduling.reconciler import Reconciler
from rhocache_service.scheduling.webhooks import Webhooks
from rhocache_service.settings import Settings
from rhocache_service.web import pages

log = logging.getLogger(__name__)

STEP_SECONDS = 0.5
TROUBLE_SECONDS = 5.0  # to wait after a step that failed as a whole


def create_app(settings: Settings) -> FastAPI:
    """Make the application.

    Raises StorageError when the registry can't be opened.
    """
    engine = open_database(settings.registry_url)
    registry = Registry(engine)
    leadership = Leadership(engine)
    cluster = RayCluster(settings)
    keys, sessions = Keys(engine), Sessions(engine)
    callers = Callers(keys, sessions)
    changes = Changes(registry, callers)
    reconciler = Reconciler(
        registry,
        leadership,
        cluster.drivers,
        settings.roots,
        settings.max_running_jobs,
        settings.max_running_jobs_of_key,
        settings.cache_retention_days,
    )
    sender = Webhooks(Deliveries(engine), leadership, settings)
    deletions = Deletions(registry, leadership, settings.roots)
    steps = (
        reconciler.end_idle, reconciler.drive, reconciler.admit,
        sender.send_due, deletions.delete_due,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        threads = CapacityLimiter(len(steps))  # of the jobs' own, that no request can take
        loops = [
            # Apart: a Ray that does not answer keeps no job from being cancelled, and a dataset
            # that takes long to be listed keeps none from being started.
            *(asyncio.create_task(_keep_stepping(step, threads)) for step in steps),
            asyncio.create_task(changes.keep_looking()),
        ]
        yield
        for loop in loops:
            loop.cancel()
        for loop in loops:
            with suppress(asyncio.CancelledError):
                await loop
        # Jobs outlive the service, and so does the Ray that they run in.
        if registry.idle():
            await run_in_threadpool(cluster.stop)
        else:
            log.info("unfinished jobs go on in Ray; the next rhocache serve picks them up")
        with suppress(OperationalError):  # another takes over all the same, if later
            leadership.give_up()
        registry.close()

    app = FastAPI(
        title="rhocache",
        version="1",
        summary="Reference-model caches for DRRHO model steering",
        lifespan=lifespan,
        webhooks=webhooks.router,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # pages.py has one that loads nothing from elsewhere
        redoc_url=None,
    )
    app.state.settings, app.state.registry, app.state.cluster = settings, registry, cluster
    app.state.keys, app.state.sessions, app.state.callers = keys, sessions, callers
    app.state.answers, app.state.changes = Answers(engine), changes
    app.state.metrics = ServiceMetrics(registry)
    app.state.submissions = Submissions(registry, settings)
    app.state.pictures = Pictures(settings.roots)
    app.state.similarities = remember_similarities()
    app.state.comparisons = remember_comparisons()
    problems.install(app)
    app.add_middleware(
        HttpMiddleware,
        allowed_hosts=[settings.host, *settings.allow_host],
        max_body_bytes=settings.max_body_bytes,
        trusted_proxies=settings.trusted_proxy,
        root_path=settings.root_path,
    )
    for api in (jobs, submissions, caches, health):
        app.include_router(api.router)
    pages.install(app)
    openapi.install(app)
    return app


async def _keep_stepping(step: Callable[[], None], threads: CapacityLimiter) -> None:
    told = ""  # the trouble that was logged last: one line a trouble, not one a step
    while True:
        pause = TROUBLE_SECONDS
        try:
            await to_thread.run_sync(step, limiter=threads)
            pause, trouble = STEP_SECONDS, ""
        except RhocacheError as error:
            trouble = f"jobs wait: {error}"
        except OperationalError as error:
            cause = " ".join(str(error.orig).split())
            trouble = f"jobs wait: the registry can't be used: {cause}"
        except Exception as error:  # else every job would stand still
            trouble = f"the reconciler failed; it goes on: {error!r}"
            if trouble != told:
                log.exception(trouble)
        if trouble != told:
            log.warning(trouble or "jobs go on")
        told = trouble
        await asyncio.sleep(pause)
