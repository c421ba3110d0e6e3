"""The page of a problem: of each kind, and of a request that a browser made in vain."""

from fastapi import Depends, Request, Response

from rhocache_service.api.auth import COOKIE, TLS_COOKIE, visitor
from rhocache_service.http import problems
from rhocache_service.http.problems import ProblemError
from rhocache_service.web.render import page, page_router, refusal

router = page_router()

_REGISTRY_MAY_BE_GONE = ("unavailable", "internal")


@router.get("/problems/{slug}", dependencies=[Depends(visitor)])
def kind(request: Request, slug: str):
    if slug not in problems.KINDS:
        raise ProblemError("not-found", f"no problem {slug!r}")
    return page(
        "problem.html",
        request,
        slug=slug,
        kind=problems.KINDS[slug],
        detail=None,
        errors=[],
        request_id=None,
    )


def problem_page(request: Request, problem: ProblemError) -> Response:
    """Show a problem to who asks for HTML, with the links that they may follow."""
    if not hasattr(request.state, "visitor") and problem.slug not in _REGISTRY_MAY_BE_GONE:
        cookies = request.cookies
        visitor(request, None, cookies.get(COOKIE), cookies.get(TLS_COOKIE))
    return refusal(request, problem)
