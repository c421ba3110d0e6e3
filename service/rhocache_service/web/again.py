"""How a job is submitted, with all that it asks: in a form, as a command, and with curl."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic_core import to_json

from rhocache_schemas.api import SUBMISSIONS, Submission, read_submission
from rhocache_schemas.job.fields import SpecField, chosen, fields_of
from rhocache_schemas.job.kinds import DEFAULT
from rhocache_service.registry.tables import JobRow


def submission_of(row: JobRow) -> Submission:
    """Return what was submitted. A deadline is as far away again as it was then."""
    after = None if row.deadline is None else max(1, round(row.deadline - row.created_at))
    beside = {"priority": row.priority, "expires_after": after, "webhook": row.webhook}
    return read_submission(row.spec | beside)


@dataclass(frozen=True, slots=True)
class Control:
    """A field in a form, as it is shown first."""

    field: SpecField
    text: str
    # What is submitted where the control is left as it is: not every value can be told from a text.
    value: str | None  # JSON; None where there is none yet


def form(kind: str, made: Submission | None = None) -> Iterator[Control]:
    """Yield the controls for a job of a kind, with what ``made`` asks or else the defaults."""
    for field in fields_of(SUBMISSIONS[kind]):
        if made is None and field.required:
            yield Control(field, "", None)
        else:
            value = field.default if made is None else field.get(made)
            yield Control(field, "\n".join(field.write(value)), to_json(value).decode())


def command(made: Submission, url: str) -> str:
    """Return the command for a service at ``url``; an API key is the environment's."""
    kind = made.job_spec().kind
    words = ["rhocache", "submit"] if kind == DEFAULT else ["rhocache", "jobs", "submit", kind]
    for field, value in chosen(made):
        for text in field.write(value):
            if field.form == "flag":
                words.append(f"--{field.option}")
            elif not field.argument:
                words += [f"--{field.option}", text]
            else:
                words.append(text)
    return shlex.join([*words, "--url", url])


def curl(made: Submission, url: str, *, keys: bool) -> str:
    """Return the request; with ``keys`` the API key is taken from the environment."""
    asked = made.model_dump(mode="json", exclude_defaults=True)
    body = json.dumps({"kind": made.job_spec().kind} | asked)
    header = "content-type: application/json"
    line = shlex.join(["curl", "-s", f"{url}/v1/jobs", "-H", header, "-d", body])
    return line + ' -H "authorization: Bearer $RHOCACHE_API_KEY"' if keys else line
