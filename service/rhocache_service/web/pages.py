"""The pages for people. What they show comes from the same functions as the REST API's answers,
and asks for the same scopes."""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from rhocache_service.http.addresses import root_path
from rhocache_service.web import cache, caches, compare, form, job, jobs, problem, runs, sign_in
from rhocache_service.web.render import page_router, templates

_SWAGGER_CSP = (  # it writes styles and pictures into its page, but none of what a dataset says
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

router = page_router()


def install(app: FastAPI) -> None:
    # Swagger UI from a package, since a page of ours loads nothing from elsewhere.
    app.mount("/static/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    app.mount("/static", StaticFiles(packages=[("rhocache_service.web", "static")]))
    for each in (jobs, job, form, caches, cache, compare, runs, sign_in, problem):
        app.include_router(each.router)
    app.include_router(router)
    app.state.problem_page = problem.problem_page


@router.get("/docs")
def docs(request: Request):
    page = HTMLResponse(templates.get_template("docs.html").render(root=root_path(request)))
    page.headers["Content-Security-Policy"] = _SWAGGER_CSP
    return page


@router.get("/favicon.ico")
def favicon(request: Request):
    """What browsers ask for beside documents that name no icon, as pictures and JSON."""
    return RedirectResponse(f"{root_path(request)}/static/icon.svg")
