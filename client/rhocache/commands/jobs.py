"""``submit`` and ``jobs``: a service's client."""

import json
from typing import Annotated

import typer
from rich.console import Console

from rhocache.calls import API_KEY, DEFAULT_URL
from rhocache.client import Client
from rhocache.commands import options, tables
from rhocache.commands.progress import Seen, ShardProgress
from rhocache_schemas.api import SUBMISSIONS, Job, Submission
from rhocache_schemas.errors import ErrorBudgetExceeded, InvalidInput, JobError
from rhocache_schemas.job.fields import read_notes
from rhocache_schemas.job.kinds import DEFAULT, KINDS
from rhocache_schemas.job.names import JOB_ID
from rhocache_schemas.job.spec import JobState

Url = Annotated[str, typer.Option(envvar="RHOCACHE_URL", help="Where the service answers.")]
ApiKey = Annotated[
    str | None, typer.Option(envvar=API_KEY, help="API key, where the service has keys.")
]
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id, its first digits, or its name.")
]

_NEWEST = 100  # jobs that a name is looked for among

jobs = typer.Typer(help="Submit, list, show, watch and cancel jobs.", no_args_is_help=True)
submitting = typer.Typer(help="Submit a job of any kind to a service.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command(help="Submit a scoring job to a service.")(
        options.of_spec(SUBMISSIONS[DEFAULT], submit)
    )
    app.add_typer(jobs, name="jobs")
    jobs.add_typer(submitting, name="submit")
    for kind, submission in SUBMISSIONS.items():
        submitting.command(kind, help=KINDS[kind].__doc__)(options.of_spec(submission, submit))


def submit(
    made: Submission,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job to its end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the service say what the job would do.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    with Client(url, api_key=api_key) as client:
        if dry_run:
            found = client.jobs.validate(**made.model_dump())
            if as_json:
                typer.echo(found.model_dump_json())
            else:
                Console().print(tables.validated(found))
            return
        job = client.jobs.submit(**made.model_dump())
        if wait:
            typer.echo(f"{job.id}  {url.rstrip('/')}/jobs/{job.id}", err=True)
            job = _watch(client, job.id)
        _print(job, as_json)
        _check(job)


@jobs.command("list")
def list_jobs(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    status: Annotated[
        str | None, typer.Option(metavar="|".join(JobState), help="Only jobs in this state.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this in their note; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    after: Annotated[str | None, typer.Option(help="Only jobs older than this one.")] = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    if status is not None and status not in list(JobState):
        raise typer.BadParameter(
            f"{status!r} is not one of {', '.join(JobState)}", param_hint="--status"
        )
    with Client(url, api_key=api_key) as client:
        page = client.jobs.list(
            limit=limit,
            after=_find(client, after) if after else None,
            status=status,
            metadata=read_notes(metadata or ()),
        )
    if as_json:
        typer.echo(page.model_dump_json())
    elif page.data:
        Console().print(tables.jobs(page))
    else:
        typer.echo("no jobs; `rhocache submit` makes one")


@jobs.command()
def show(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Show a job."""
    with Client(url, api_key=api_key) as client:
        _print(client.jobs.get(_find(client, job)), as_json)


@jobs.command()
def watch(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Watch a job to its end."""
    with Client(url, api_key=api_key) as client:
        seen = _watch(client, _find(client, job))
        _print(seen, as_json)
        _check(seen)


@jobs.command()
def cancel(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Stop a job. What it has committed stays."""
    with Client(url, api_key=api_key) as client:
        _print(client.jobs.cancel(_find(client, job)), as_json)


@jobs.command()
def retry(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Submit what a job that has ended left: missing and failed shards, and rows to try again."""
    with Client(url, api_key=api_key) as client:
        _print(client.jobs.retry(_find(client, job)), as_json)


@jobs.command()
def delete(
    job: JobId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    with_output: Annotated[
        bool, typer.Option("--with-output", help="Delete what it has written too, for good.")
    ] = False,
) -> None:
    """Let the service forget a job that has ended. Its cache stays."""
    with Client(url, api_key=api_key) as client:
        client.jobs.delete(_find(client, job), with_output=with_output)


@jobs.command()
def errors(
    job: JobId,
    code: Annotated[str | None, typer.Option(help="Only this error code.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 100,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List the shards and pairs that failed."""
    with Client(url, api_key=api_key) as client:
        page = client.jobs.errors(_find(client, job), limit=limit, code=code)
    if as_json:
        typer.echo(page.model_dump_json())
    else:
        Console().print(tables.pair_errors(page))


@jobs.command()
def logs(
    job: JobId,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the last.")] = 200,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show what a job's driver has printed."""
    with Client(url, api_key=api_key) as client:
        for line in client.jobs.log(_find(client, job), limit=lines).lines:
            typer.echo(line)


def _find(client: Client, job: str) -> str:
    """Return the id of the job that a user means by it, by its first digits, or by its name.

    Raises InvalidInput where that is none of the newest jobs, or several.
    """
    if JOB_ID.fullmatch(job):
        return job
    found = [
        each.id
        for each in client.jobs.list(limit=_NEWEST).data
        if each.id.removeprefix("job_").startswith(job.removeprefix("job_"))
        or each.metadata.get("name") == job
    ]
    if len(found) != 1:
        told = ", ".join(found[:3]) if found else f"none of the newest {_NEWEST}"
        raise InvalidInput(f"job {job!r} is {told}; give its id, its first digits or its name")
    return found[0]


def _watch(client: Client, job: str) -> Job:
    seen = client.jobs.get(job)
    try:
        with ShardProgress() as progress:
            for seen in client.jobs.watch(job):
                progress.show(Seen.of_job(seen))
    except KeyboardInterrupt:
        stop = f"`rhocache jobs cancel {tables.short_id(job)}` stops it"
        typer.echo(f"job {job} goes on without you; {stop}", err=True)
        raise
    return seen


def _print(job: Job, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(job.model_dump(mode="json")))
    else:
        Console().print(tables.job(job))


def _check(job: Job) -> None:
    """Raise what makes the command end as the job did."""
    for error in job.errors:
        kind = ErrorBudgetExceeded if error.code == ErrorBudgetExceeded.code else JobError
        raise kind(f"job {job.id} failed: {error.detail}")
    if job.status in (JobState.CANCELLED, JobState.EXPIRED):
        raise JobError(f"job {job.id} was {job.status}")
