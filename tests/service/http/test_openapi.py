"""The OpenAPI document: complete, as committed, and what the service keeps to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI

from rhocache_schemas.events import EVENTS
from rhocache_service.app import create_app
from rhocache_service.http.problems import KINDS

from ..conftest import served, settings_without_ray

# A key that was sent with another body is refused, whatever a schema can say of either.
CONFIGURATION = """
[[operations]]
include-name = ["POST /v1/jobs", "POST /v1/jobs/{job}/retry"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "403", "404", "409", "422"]

[[operations]]  # nothing happens to these jobs: each wait would last as long as it may
include-name = "GET /v1/jobs/{job}"
parameters = { wait = 0 }
"""
COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    root = tmp_path_factory.mktemp("openapi")
    limits = {"submits_per_minute": 10**6, "max_waiting_jobs": 10**6}
    # The examples' places: whether they are there is asked when a job's turn comes.
    return create_app(settings_without_ray(root, "/data", **limits))


def test_the_committed_document_is_the_services(app: FastAPI) -> None:
    assert json.loads(COMMITTED.read_text()) == app.openapi(), "write it anew: make openapi"


def test_every_operation_says_what_it_does_and_how_it_fails(app: FastAPI) -> None:
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            if path.startswith("/v1/"):
                assert operation["security"], (method, path)
                told = {
                    example
                    for answer in operation["responses"].values()
                    for kind, content in answer.get("content", {}).items()
                    if kind == "application/problem+json"
                    for example in content["examples"]
                }
                assert {"unauthenticated", "forbidden", "internal"} <= told
                assert told <= KINDS.keys()


def test_each_kind_of_event_has_a_schema(app: FastAPI) -> None:
    document = app.openapi()
    stream = document["paths"]["/v1/jobs/{job}/events"]["get"]["responses"]["200"]["content"]
    (sent,) = (content["itemSchema"] for content in stream.values())
    for kind, model in EVENTS.items():
        (one,) = (e for e in sent["oneOf"] if e["properties"]["event"] == {"const": kind})
        reference = one["properties"]["data"]["contentSchema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert schema["properties"].keys() == model.model_fields.keys()


def test_whatever_is_sent_the_service_keeps_to_its_document(app: FastAPI, tmp_path: Path) -> None:
    """schemathesis with all of its checks: examples, coverage, fuzzing, and following links."""
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    _, key = app.state.keys.create("fuzz", ["admin"])
    with served(app) as url:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run", f"{url}/openapi.json", f"--header=Authorization: Bearer {key}",
                "--checks=all", "--phases=examples,coverage,fuzzing,stateful",
                "--max-examples=20", "--seed=1", "--generation-database=none",
                "--exclude-path=/v1/jobs/{job}/events",  # streams until the job ends: never here
                "--exclude-path=/readyz",  # is 503 without Ray, and says so
                "--request-timeout=600", "--suppress-health-check=too_slow", "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
