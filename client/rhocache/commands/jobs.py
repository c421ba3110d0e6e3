"""``serve``, ``submit`` and ``jobs``: the service and its client."""

import json
from typing import Annotated

import typer
from rich.console import Console

from rhocache.calls import API_KEY, DEFAULT_URL
from rhocache.client import Client
from rhocache.commands import options, tables
from rhocache.commands.extras import extra
from rhocache.commands.progress import Seen, ShardProgress
from rhocache_schemas.api import SUBMISSIONS, Job, Submission
from rhocache_schemas.errors import ErrorBudgetExceeded, JobError
from rhocache_schemas.job.fields import read_notes
from rhocache_schemas.job.kinds import DEFAULT, KINDS
from rhocache_schemas.job.spec import JobState

Url = Annotated[str, typer.Option(envvar="RHOCACHE_URL", help="Where the service answers.")]
ApiKey = Annotated[
    str | None, typer.Option(envvar=API_KEY, help="API key, where the service has keys.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]

jobs = typer.Typer(help="Submit, list, show, watch and cancel jobs.", no_args_is_help=True)
submitting = typer.Typer(help="Submit a job of any kind to a service.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command()(serve)
    app.command(help="Submit a scoring job to a service.")(
        options.of_spec(SUBMISSIONS[DEFAULT], submit)
    )
    app.add_typer(jobs, name="jobs")
    jobs.add_typer(submitting, name="submit")
    for kind, submission in SUBMISSIONS.items():
        submitting.command(kind, help=KINDS[kind].__doc__)(options.of_spec(submission, submit))


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8321].")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder of the registry and Ray [rhocache-data].")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Registry, as postgresql://... [SQLite in the data dir].")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="HTTP address of a Ray cluster's dashboard [our own Ray].")
    ] = None,
    allow_root: Annotated[
        list[str] | None,
        typer.Option(help="Place that jobs may name; repeatable [data dir, working folder]."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another Host to answer to: NAME, NAME:PORT, *.NAME or *; repeatable."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a proxy whose X-Forwarded-* are believed; repeatable."
        ),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Path that a proxy shows the service under, as /rhocache.")
    ] = None,
    max_running_jobs: Annotated[int | None, typer.Option(help="Jobs that run at once [1].")] = None,
) -> None:
    """Run the job service. Each option can come from the environment too, as RHOCACHE_PORT."""
    given = {name: value for name, value in locals().items() if value is not None}
    with extra("service"):
        from rhocache_service.server import serve as run
        from rhocache_service.settings import Settings
    run(Settings.load(**given))


def submit(
    made: Submission,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job to its end.")] = False,
    as_json: options.Json = False,
) -> None:
    with Client(url, api_key=api_key) as client:
        job = client.jobs.submit(**made.model_dump())
        if wait:
            job = _watch(client, job.id)
        _print(job, as_json)
        _check(job)


@jobs.command("list")
def list_jobs(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this in their note; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    with Client(url, api_key=api_key) as client:
        page = client.jobs.list(limit=limit, status=status, metadata=read_notes(metadata or ()))
    if as_json:
        typer.echo(page.model_dump_json())
    else:
        Console().print(tables.jobs(page.data))


@jobs.command()
def show(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Show a job."""
    with Client(url, api_key=api_key) as client:
        _print(client.jobs.get(job), as_json)


@jobs.command()
def watch(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Watch a job to its end."""
    with Client(url, api_key=api_key) as client:
        seen = _watch(client, job)
        _print(seen, as_json)
        _check(seen)


@jobs.command()
def cancel(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Stop a job. What it has committed stays."""
    with Client(url, api_key=api_key) as client:
        _print(client.jobs.cancel(job), as_json)


@jobs.command()
def retry(
    job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: options.Json = False
) -> None:
    """Submit what a job that has ended left: missing and failed shards, and rows to try again."""
    with Client(url, api_key=api_key) as client:
        _print(client.jobs.retry(job), as_json)


@jobs.command()
def delete(job: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Let the service forget a job that has ended. Its cache stays."""
    with Client(url, api_key=api_key) as client:
        client.jobs.delete(job)


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
        page = client.jobs.errors(job, limit=limit, code=code)
    if as_json:
        typer.echo(page.model_dump_json())
    else:
        Console().print(tables.pair_errors(page))


def _watch(client: Client, job: str) -> Job:
    seen = client.jobs.get(job)
    with ShardProgress() as progress:
        for seen in client.jobs.watch(job):
            progress.show(Seen.of_job(seen))
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
