"""The OpenAPI document: what FastAPI finds, and the problems that every operation may answer."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi

from rhocache_schemas.errors import Problem
from rhocache_service.http import root_paths
from rhocache_service.http.problems import KINDS, MEDIA_TYPE

# What can be done with a job that was just made, for tools that follow links.
_LINKED = ("get_job", "cancel", "retry", "shards", "errors", "manifest", "delete")
_EVERYWHERE: tuple[str, ...] = ("unauthenticated", "forbidden", "internal", "unavailable")
_WITH_BODY = ("malformed-request", "uri-not-allowed", "payload-too-large", "unsupported-media-type")
_NEW_JOB = (
    "fingerprint-mismatch", "dataset-mismatch", "idempotency-in-flight", "idempotency-key-reused",
    "rate-limited", "queue-full",
)  # fmt: skip


def install(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make(app)
        return app.openapi_schema

    app.openapi = document

    @app.get("/openapi.json", include_in_schema=False)
    def answer(request: Request) -> dict[str, Any]:
        root = root_paths.root(request)
        return document() | ({"servers": [{"url": root}]} if root else {})


def _make(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    made = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= made.pop("$defs")
    schemas["Problem"] = made
    for path, operations in found["paths"].items():
        if path.startswith("/v1/"):
            for method, operation in operations.items():
                operation["responses"] |= _problems(path, method, operation)
                if "202" in operation["responses"]:
                    operation["responses"]["202"]["links"] = {
                        name: {"operationId": name, "parameters": {"job": "$response.body#/id"}}
                        for name in _LINKED
                    }
    metrics = found["paths"]["/metrics"]["get"]["responses"]
    metrics |= {"401": _answer(["unauthenticated"]), "403": _answer(["forbidden"])}
    found["paths"]["/readyz"]["get"]["responses"]["503"] = _answer(["unavailable"])
    return found


def _problems(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    slugs = list(_EVERYWHERE)
    if "requestBody" in operation:
        slugs += _WITH_BODY
    if "requestBody" in operation or "parameters" in operation:
        slugs.append("validation-failed")
    if (
        "{" in path
        or path.endswith(":validate")
        or "after" in {each["name"] for each in operation.get("parameters", [])}
    ):
        slugs.append("not-found")
    if "{job}" in path and method != "get":
        slugs.append("job-state-conflict")
    if method == "post" and not path.endswith("/cancel"):
        slugs += _NEW_JOB
    by_status: dict[str, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(str(KINDS[slug].status), []).append(slug)
    return {status: _answer(some) for status, some in sorted(by_status.items())}


def _answer(slugs: list[str]) -> dict[str, Any]:
    examples = {
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
