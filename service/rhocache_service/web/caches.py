"""The list of committed caches."""

from fastapi import Request

from rhocache_service.api.auth import ReadsCaches
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.web.named import named
from rhocache_service.web.render import page, page_router

router = page_router()

_ROWS = 50


@router.get("/caches")
def list_caches(_: ReadsCaches, request: Request, registry: InRegistry, after: str = ""):
    rows = registry.caches.newest(_ROWS + 1, registry.caches.find(after) if after else None)
    older = rows[_ROWS - 1].id if len(rows) > _ROWS else None
    made_by = registry.among([cache.job for cache in rows])
    jobs = {job: named(row, {}) for job, row in made_by.items()}
    return page("caches.html", request, caches=rows[:_ROWS], jobs=jobs, older=older)
