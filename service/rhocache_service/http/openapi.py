"""Documents in OpenAPI the problems that a route may answer with."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from rhocache_schemas.errors import Problem
from rhocache_schemas.events import EVENTS
from rhocache_service.http.problems import KINDS, MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]  # as FastAPI's routes take them

# Problems of every operation of the API, of those with a body, of those with a job in it, and of
# those that make one.
_ALWAYS = ("unauthenticated", "forbidden", "internal", "unavailable")
BODY = ("malformed-request", "payload-too-large", "unsupported-media-type", "validation-failed")
JOB = (*BODY, "uri-not-allowed", "webhook-not-allowed")
NEW_JOB = ("idempotency-in-flight", "idempotency-key-reused", "rate-limited", "queue-full")
NEW_JOB_HEADERS = {
    name: {"description": text, "schema": {"type": "string"}}
    for name, text in {
        "Location": "where the job is",
        "Retry-After": "seconds until there may be news of it",
        "Idempotent-Replayed": "``true`` where this is the answer that the same request with this "
        "Idempotency-Key was given before",
        "RateLimit-Policy": "what may be submitted: jobs in a window of seconds, and waiting ones",
        "RateLimit": "how many jobs may still be submitted, and the seconds until it is more",
    }.items()
}


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


def _sent_event(kind: str) -> dict[str, Any]:
    """An event as its reader has it, with data that is a JSON text of its own (OpenAPI 3.2)."""
    data = {
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"#/components/schemas/{EVENTS[kind].__name__}"},
    }
    return {"properties": {"event": {"const": kind}, "data": data}}


EVENT_STREAM: Responses = {
    200: {
        "description": "The events, each with its number as ``id`` and a kind that says what its "
        "``data`` is: "
        + "; ".join(f"``{kind}``: {model.__name__}" for kind, model in EVENTS.items()),
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "required": ["id", "event", "data"],
                    "oneOf": [_sent_event(kind) for kind in EVENTS],
                }
            }
        },
    }
}


def install(app: FastAPI) -> None:
    """Add the schemas of problems and events: FastAPI takes models of JSON answers alone."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "serialization") for model in (Problem, *EVENTS.values())
    ]
    _, found = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas = found["$defs"]
    make = app.openapi

    def document() -> dict[str, Any]:
        found = make()
        found["components"]["schemas"] |= schemas
        return found

    app.openapi = document
