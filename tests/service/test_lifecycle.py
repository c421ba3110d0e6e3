"""Jobs from their submission to their end, through kills of what runs them."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from actors import actors

from rhocache import Client, calls
from rhocache_schemas.api import Job
from rhocache_schemas.cache.documents import Plan
from rhocache_schemas.job.spec import JobState

from .conftest import COMMAND, Service, metric, wait_until


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture
def fields(work: Path, dataset: Path, reference_folder: Path) -> dict[str, Any]:
    """Of a job that runs for some seconds."""
    return {
        "dataset": str(dataset),
        "output": str(work / "cache"),
        "reference": {"model": f"local-dir:{reference_folder}"},
        "batch_size": 16,
        "workers": 1,
        "error_budget": 1.0,  # one of its shards is torn
    }


def wait_for(client: Client, service: Service, job: Job, state: JobState) -> Job:
    wait_until(lambda: client.jobs.get(job.id).status == state, service.log)
    return client.jobs.get(job.id)


def contents(cache: Path) -> dict[str, bytes]:
    """The files that the rows of a cache lie in."""
    files = [*cache.glob("shards/*"), cache / "index.parquet"]
    return {str(file.relative_to(cache)): file.read_bytes() for file in files}


def counted(service: Service) -> dict[str, float]:
    """Of the metrics what changes with a job."""
    return {
        f"{what} {outcome}": metric(service.url, f"rhocache_{what}_total", outcome=outcome)
        for what, outcomes in {"pairs": ("ok", "failed"), "shards": ("committed", "failed")}.items()
        for outcome in outcomes
    }


def test_a_job_from_end_to_end(client: Client, service: Service, fields: dict[str, Any]) -> None:
    before = counted(service)
    # What Ray would replace, what ends a JSON string, and what a shell would run.
    metadata = {
        "for": "a test",
        "$HOME": "$PATH ${PATH} %PATH% {PATH}",
        "quote": "\"'\\`id`\n\u00e9",
    }
    job = client.jobs.submit(**fields, metadata=metadata)
    assert job.status == JobState.VALIDATING
    seen = list(client.jobs.watch(job.id))
    states = list(dict.fromkeys(job.status for job in seen))
    order = list(JobState)
    assert states == sorted(states, key=order.index)
    assert JobState.IN_PROGRESS in states

    done = seen[-1]
    assert done.status == JobState.COMPLETED
    assert done.metadata == metadata
    seen_as = job.spec.model_copy(update={"format": "webdataset"})  # which was left to be seen
    assert Plan.read(f"{done.spec.output}/plan.json").spec == seen_as
    counts, shards = done.request_counts, done.shard_counts
    assert (counts.total, counts.completed, counts.failed) == (513, 512, 1)
    assert (shards.total, shards.committed, shards.failed) == (3, 2, 1)
    assert done.progress.pairs_per_second > 0
    assert done.completed_at is not None
    assert done.created_at <= (done.in_progress_at or 0) <= done.completed_at

    added = {name: value - before[name] for name, value in counted(service).items()}
    assert added == {"pairs ok": 512, "pairs failed": 1, "shards committed": 2, "shards failed": 1}

    names = [step.name for step in done.progress.steps]
    assert names[-4:] == ["loading the reference", "warming up", "encoding", "committing"]
    assert done.progress.limited_by is not None
    assert client.jobs.log(job.id).lines

    manifest = client.jobs.manifest(job.id)
    assert (manifest.rows, manifest.ok, manifest.failed) == (513, 512, 1)
    errors = {(error.shard, error.key, error.code) for error in client.jobs.errors(job.id).data}
    assert errors == {
        ("torn.tar", None, "tar_truncated"),
        ("poor.tar", "lonely", "image_missing"),
    }


def test_the_service_is_killed_and_its_jobs_go_on(
    client: Client, service: Service, fields: dict[str, Any], work: Path
) -> None:
    output = work / "killed"
    job = client.jobs.submit(**fields | {"output": str(output)})
    wait_for(client, service, job, JobState.IN_PROGRESS)
    ray = service.ray_process()
    service.kill()
    # The job goes on with nobody there to watch it.
    wait_until(lambda: any(output.glob("shards/*")), service.log)
    service.start()
    assert service.ray_process() == ray
    assert client.jobs.get(job.id).created_at == job.created_at
    wait_for(client, service, job, JobState.COMPLETED)
    assert contents(output) == contents(work / "cache")


def test_ray_is_killed_and_its_jobs_are_started_again(
    client: Client, service: Service, fields: dict[str, Any], work: Path
) -> None:
    output = work / "rayless"
    job = client.jobs.submit(**fields | {"output": str(output)})
    wait_until(lambda: (output / "plan.json").exists(), service.log)
    ray = service.ray_process()
    os.killpg(ray, signal.SIGKILL)
    wait_for(client, service, job, JobState.COMPLETED)
    assert service.ray_process() != ray
    assert contents(output) == contents(work / "cache")
    assert "Traceback" not in service.log.read_text()


def test_the_longest_spec_that_is_taken_runs(
    client: Client, service: Service, fields: dict[str, Any], work: Path, dataset: Path
) -> None:
    fields |= {"dataset": f"{dataset}/{{poor.tar,00000.tar}}", "output": str(work / "long")}
    room = (1 << 20) - len(calls.submission(None, fields, "").model_dump_json()) - 1000
    again = ",00000.tar" * (room // len(",00000.tar"))
    fields["dataset"] = f"{dataset}/{{poor.tar,00000.tar{again}}}"
    job = client.jobs.submit(**fields)
    assert wait_for(client, service, job, JobState.COMPLETED).request_counts.total == 513
    seen_as = job.spec.model_copy(update={"format": "webdataset"})
    assert Plan.read(f"{work}/long/plan.json").spec == seen_as


def test_jobs_are_cancelled(
    client: Client, service: Service, fields: dict[str, Any], work: Path, dataset: Path
) -> None:
    (work / "much").mkdir()
    for shard in range(20):
        (work / "much" / f"{shard:05}.tar").symlink_to(dataset / "00000.tar")
    fields |= {"dataset": str(work / "much"), "output": str(work / "cancelled"), "batch_size": 1}
    running = client.jobs.submit(**fields)
    node = psutil.Process(service.ray_process())
    wait_until(lambda: bool(actors(node)), service.log)
    for encoder in actors(node):
        encoder.suspend()  # so that the job is not done before it is cancelled
    wait_for(client, service, running, JobState.IN_PROGRESS)
    (work / "alias").symlink_to(work)
    other = {"output": f"{work}/alias/cancelled/", "shards": "*.tar"}  # the same would go along
    waiting = client.jobs.submit(**fields | other)
    wait_for(client, service, waiting, JobState.QUEUED)

    # Stopped with jobs to do, the service leaves Ray to them.
    ray = service.ray_process()
    service.stop()
    assert "go on in Ray" in service.log.read_text()
    service.start()
    assert service.ray_process() == ray
    assert client.jobs.get(waiting.id).status == JobState.QUEUED, "one job a cache"

    assert client.jobs.cancel(waiting.id).status == JobState.CANCELLING
    wait_for(client, service, waiting, JobState.CANCELLED)
    client.jobs.cancel(running.id)
    wait_for(client, service, running, JobState.CANCELLED)
    assert not (work / "cancelled" / "manifest.json").exists()
    listed = client.jobs.list(status="cancelled", limit=2).data
    assert [job.id for job in listed] == [waiting.id, running.id]


def test_why_a_job_failed(
    client: Client, service: Service, fields: dict[str, Any], work: Path
) -> None:
    absent = client.jobs.submit(**fields | {"dataset": f"{work}/absent"})
    model = {"model": f"local-dir:{work}"}
    empty = client.jobs.submit(**fields | {"output": f"{work}/x", "reference": model})
    (fault,) = wait_for(client, service, absent, JobState.FAILED).errors
    assert (fault.code, f"{work}/absent" in fault.detail) == ("dataset", True)
    (fault,) = wait_for(client, service, empty, JobState.FAILED).errors
    assert (fault.code, str(work) in fault.detail) == ("reference-unavailable", True)


@pytest.mark.parametrize(("budget", "code"), [("0.5", 0), ("0.1", 3)])
def test_the_command_ends_as_the_job_does(
    service: Service, work: Path, dataset: Path, reference_folder: Path, budget: str, code: int
) -> None:
    done = subprocess.run(
        [
            COMMAND, "submit", "dataset", "--model", f"local-dir:{reference_folder}",
            "--out", "cache", "--error-budget", budget, "--wait", "--json", "--url", service.url,
        ],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    job = Job.model_validate_json(done.stdout)
    assert job.spec.dataset == str(dataset), "relative to the command's folder"
    assert job.status == (JobState.FAILED if code else JobState.COMPLETED)
    assert "shards" in done.stderr
    if code:
        assert job.errors
        assert done.stderr.splitlines()[-1].startswith(f"rhocache: error: job {job.id} failed: ")
