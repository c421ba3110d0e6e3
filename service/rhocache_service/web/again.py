"""How a job is submitted once more, with all that was asked of it: as a command, and with curl."""

import json
import shlex
from typing import Any

from rhocache_schemas.api import Submission
from rhocache_service.registry.tables import JobRow


def submission_of(row: JobRow) -> Submission:
    """Return what was submitted. A deadline is as far away again as it was then."""
    after = None if row.deadline is None else max(1, round(row.deadline - row.created_at))
    how = {"priority": row.priority, "expires_after": after}
    return Submission.model_validate(row.spec | how)


def command(made: Submission, url: str) -> str:
    """Return the ``rhocache submit`` for a service at ``url``; an API key is the environment's."""
    given = made.model_dump(mode="json", exclude_defaults=True)
    reference = given.pop("reference")
    metadata = given.pop("metadata", {})
    words = ["rhocache", "submit", given.pop("dataset"), "--out", given.pop("output")]
    for name, value in (reference | given).items():
        words += _option(name, value)
    for item in metadata.items():
        words += ["--metadata", _pair(*item)]
    return shlex.join([*words, "--url", url])


def curl(made: Submission, url: str, *, keys: bool) -> str:
    """Return the request; with ``keys`` the API key is taken from the environment."""
    body = made.model_dump_json(exclude_defaults=True)
    header = "content-type: application/json"
    line = shlex.join(["curl", "-s", f"{url}/v1/jobs", "-H", header, "-d", body])
    return line + ' -H "authorization: Bearer $RHOCACHE_API_KEY"' if keys else line


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def _pair(key: str, value: str) -> str:
    # A key that has the sign between the two is spelled as JSON.
    return json.dumps({key: value}) if "=" in key or key.startswith("{") else f"{key}={value}"
