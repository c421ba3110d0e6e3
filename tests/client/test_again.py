"""The ways that a job's page gives to submit the job once more, each really taken."""

import html
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from caches import FINGERPRINT, commit, in_shards
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from specs import submissions
from typer.testing import CliRunner

from rhocache.cli import app
from rhocache_schemas.api import SUBMISSIONS
from rhocache_schemas.job.kinds import KINDS
from rhocache_schemas.job.views import Views
from rhocache_service.app import create_app

from ..service.conftest import served, settings_without_ray

ASKED = ("spec", "priority", "webhook")
QUOTES = 'it\'s "$HOME" `id` <b> ${PATH} \\'


@pytest.mark.parametrize("way", ["command", "curl"])
@pytest.mark.parametrize("but", ["reuse", "also"])  # which no job has both
def test_nothing_that_was_asked_for_is_lost(url: str, root: Path, way: str, but: str) -> None:
    views = {"count": 3, "seed": 4, "scale": [0.25, 1.0], "flip": 0.5, "rand_augment": 9}
    drawn = {"views": Views.model_validate(views), "precision": "bf16", "dtype": "float32"}
    earlier = commit(
        root / "earlier" / f"{way}-{but}",
        in_shards(*[np.eye(2, dtype=np.float32)] * 2, {"a.tar": 2}, []),
        fingerprint=FINGERPRINT.model_copy(update=drawn),
    )
    also = [
        f"ViT-B-16,openai,bf16={root}/caches/also-{way}",
        {
            "reference": {"model": f"local-dir:{root}/{QUOTES}"},
            "output": f"{root}/caches/=, {way}",
        },
    ]
    several = {"reuse": [str(earlier)]} if but == "also" else {"also": also}
    asked = {
        "dataset": f"{root}/data sets/{{a,b}}.tar",
        "output": f"{root}/caches/{way}-{but}",
        "reference": {
            "model": "ViT-B-32",
            "pretrained": "openai",
            "precision": "bf16",
        },
        "shards": "a*",
        "limit": 1000,
        "caption_field": "text",
        "format": "csv",
        "image_suffix": "input.jpg;input.png",
        "caption_suffix": "outputs.txt",
        "image_column": "path",
        "caption_column": QUOTES,
        "captions": 3,
        "key_column": "id",
        "images": f"{root}/data sets/images",
        **several,
        "views": views,
        "dtype": "float32",
        "batch_size": 7,
        "workers": 3,
        "remote_decoders": 2,
        "error_budget": 0.25,
        "retry_failed": True,
        "prune": True,
        "replace": True,
        "metadata": {"owner": QUOTES, "a=b": "c=d", "{x": "=", "-flag": "-v", "empty": ""},
        "priority": -3,
        "expires_after": 86_400,
        "webhook": "https://hooks.example.org/it's?a=b&c",
    }
    made = SUBMISSIONS["score"].model_validate(asked)
    told = made.model_dump(exclude_defaults=True).keys()
    either = {"reuse", "also"} - several.keys()
    assert told == type(made).model_fields.keys() - {"format_version", "kind", *either}
    first = httpx.post(f"{url}/v1/jobs", json=asked).raise_for_status().json()
    command, curl = ways(url, first["id"])
    httpx.post(f"{url}/v1/jobs/{first['id']}/cancel").raise_for_status()

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = command if way == "command" else curl
    subprocess.run(line, shell=True, check=True, env=os.environ | {"PATH": path}, cwd="/")
    second = httpx.get(f"{url}/v1/jobs?limit=1").json()["data"][0]
    assert second["id"] != first["id"]
    assert second["spec"] == first["spec"]
    assert second["priority"] == first["priority"]
    assert second["webhook"] == first["webhook"] == asked["webhook"]
    left = second["expires_at"] - time.time()
    assert 80_000 < left <= 86_400


def ways(url: str, job: str) -> tuple[str, str]:
    """The command and the curl that a job's page shows."""
    page = httpx.get(f"{url}/jobs/{job}").raise_for_status().text
    command, curl = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    return html.unescape(command), html.unescape(curl)


@pytest.fixture(scope="module")
def busy(root: Path) -> Iterator[str]:
    """The URL of a service that takes any number of jobs."""
    limits = {"submits_per_minute": 10**6, "max_waiting_jobs": 10**6}
    folder = root / "busy"
    folder.mkdir()
    with served(create_app(settings_without_ray(folder, str(root), **limits))) as url:
        yield url


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_any_job_comes_back_as_it_was(busy: str, root: Path, data: st.DataObject) -> None:
    """From a valid spec to the page, to the command or the curl on it, and to the same spec."""
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    made = data.draw(submissions(kind, str(root)))
    answer = httpx.post(f"{busy}/v1/jobs", json=made.model_dump(mode="json"))
    assume(answer.is_success)  # as with a brace pattern that has no end
    first = answer.json()
    command, curl = ways(busy, first["id"])

    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, (done.output, done.exception)
    submitted = httpx.get(f"{busy}/v1/jobs?limit=1").json()["data"][0]
    words = shlex.split(curl)
    body = json.loads(words[words.index("-d") + 1])
    posted = httpx.post(f"{busy}/v1/jobs", json=body).raise_for_status().json()
    for second in (submitted, posted):
        assert second["id"] != first["id"]
        assert [second[name] for name in ASKED] == [first[name] for name in ASKED]
        assert left(second) == pytest.approx(left(first), abs=1)


def left(job: dict[str, Any]) -> float:
    """Seconds that a job had until its deadline; of one without, infinity."""
    return float("inf") if job["expires_at"] is None else job["expires_at"] - job["created_at"]
