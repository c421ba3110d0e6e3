"""Documents in OpenAPI the problems that a route may answer with."""

from typing import Any

from fastapi import FastAPI

from rhocache_schemas.errors import Problem
from rhocache_service.http.problems import KINDS, MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]  # as FastAPI's routes take them

# Problems of every operation of the API, of those with a body, and of those that make a job.
_ALWAYS = ("unauthenticated", "forbidden", "internal", "unavailable")
BODY = (
    "malformed-request", "uri-not-allowed", "payload-too-large", "unsupported-media-type",
    "validation-failed",
)  # fmt: skip
NEW_JOB = ("idempotency-in-flight", "idempotency-key-reused", "rate-limited", "queue-full")


def api_problems(*slugs: str) -> Responses:
    """Return the ``responses`` of an operation of the API: these problems, and those of all."""
    return problems(*_ALWAYS, *slugs)


def problems(*slugs: str) -> Responses:
    """Return the ``responses`` of a route that may answer with these problems, of KINDS."""
    by_status: dict[int, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(KINDS[slug].status, []).append(slug)
    return {status: _response(by_status[status]) for status in sorted(by_status)}


def _response(slugs: list[str]) -> dict[str, Any]:
    examples: dict[str, Any] = {
        slug: {
            "summary": KINDS[slug].title,
            "value": {
                "type": f"/problems/{slug}",
                "title": KINDS[slug].title,
                "status": KINDS[slug].status,
                "detail": KINDS[slug].meaning,
                "instance": "/v1/jobs",
                "request_id": "req_0123456789abcdef",
                "errors": [],
            },
        }
        for slug in slugs
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; ".join(KINDS[slug].title for slug in slugs),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def install(app: FastAPI) -> None:
    """Add the schema of problems: FastAPI takes models of a route's own media type alone."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = {**schema.pop("$defs"), "Problem": schema}
    make = app.openapi

    def document() -> dict[str, Any]:
        found = make()
        found["components"]["schemas"] |= schemas
        return found

    app.openapi = document
