"""The ways that a job's page gives to submit the job once more, each really taken."""

import html
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from rhocache_schemas.api import Submission

QUOTES = 'it\'s "$HOME" `id` <b> ${PATH} \\'


@pytest.mark.parametrize("way", ["command", "curl"])
def test_nothing_that_was_asked_for_is_lost(url: str, root: Path, way: str) -> None:
    asked = {
        "dataset": f"{root}/data sets/{{a,b}}.tar",
        "output": f"{root}/caches/{way}",
        "reference": {
            "model": "ViT-B-32",
            "pretrained": "openai",
            "precision": "bf16",
        },
        "shards": "a*",
        "caption_field": "text",
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
    }
    made = Submission.model_validate(asked)
    defaults = made.model_dump(exclude_defaults=True).keys()
    assert defaults == Submission.model_fields.keys() - {"format_version"}, "one is not asked for"
    first = httpx.post(f"{url}/v1/jobs", json=asked).raise_for_status().json()
    page = httpx.get(f"{url}/jobs/{first['id']}").raise_for_status().text
    command, curl = (html.unescape(each) for each in re.findall(r"<pre[^>]*>(.*?)</pre>", page))
    httpx.post(f"{url}/v1/jobs/{first['id']}/cancel").raise_for_status()

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = command if way == "command" else curl
    subprocess.run(line, shell=True, check=True, env=os.environ | {"PATH": path}, cwd="/")
    second = httpx.get(f"{url}/v1/jobs?limit=1").json()["data"][0]
    assert second["id"] != first["id"]
    assert second["spec"] == first["spec"]
    assert second["priority"] == first["priority"]
    left = second["expires_at"] - time.time()
    assert 80_000 < left <= 86_400


@pytest.mark.parametrize("given", ["plain", '{"a": ', "{x=1"])
def test_a_note_without_a_value_is_refused(given: str) -> None:
    from rhocache.commands import options
    from rhocache_schemas.errors import InvalidInput

    with pytest.raises(InvalidInput, match="KEY=VALUE"):
        options.metadata([given])
