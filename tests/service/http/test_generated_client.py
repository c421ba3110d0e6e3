"""A client that openapi-python-client makes of the committed document drives a real job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Service

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"
# Its formatters are not needed, and would look for a configuration.
CONFIGURATION = "post_hooks: []\nproject_name_override: made\npackage_name_override: made\n"
# In a process of its own: a user has the generated package alone.
DRIVE = """
import json, sys
from made import Client
from made.api.caches import list_caches
from made.api.jobs import (
    get_job, get_job_manifest, list_job_errors, list_job_shards, list_jobs, submit_job, validate_job
)
from made.models import JobState, Problem, ScoreSubmission

url, asked = sys.argv[1], json.loads(sys.argv[2])
with Client(base_url=url, raise_on_unexpected_status=True, timeout=600) as client:
    body = ScoreSubmission.from_dict(asked)
    told = validate_job.sync(client=client, body=body)
    assert (told.shards, told.dimension) == (3, 32), told
    sent = submit_job.sync_detailed(client=client, body=body, idempotency_key="generated")
    job = sent.parsed
    again = submit_job.sync_detailed(client=client, body=body, idempotency_key="generated")
    assert (again.parsed.id, again.headers["idempotent-replayed"]) == (job.id, "true")
    while job.status not in ("completed", "failed"):
        job = get_job.sync(job.id, client=client, wait=20)
    assert job.status is JobState.COMPLETED, job
    assert (job.request_counts.completed, job.shard_counts.committed) == (512, 2), job
    page = list_jobs.sync(client=client, status=JobState.COMPLETED, metadata=["made=by a test"])
    assert [each.id for each in page.data] == [page.first_id] == [page.last_id] == [job.id]
    assert len(list_job_shards.sync(job.id, client=client).data) == 3
    assert len(list_job_errors.sync(job.id, client=client).data) == 2
    assert get_job_manifest.sync(job.id, client=client).rows == 513
    assert list_caches.sync(client=client).data[0].job == job.id
    absent = get_job.sync("job_0", client=client)
    assert isinstance(absent, Problem) and absent.status == 404, absent
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the package ``made`` lies."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "configuration.yaml").write_text(CONFIGURATION)
    command = [
        sys.executable, "-m", "openapi_python_client", "generate", f"--path={DOCUMENT}",
        "--meta=none", f"--config={folder}/configuration.yaml", f"--output-path={folder}/made",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unable to" not in done.stdout, done.stdout
    return folder


def test_operations_have_short_names(made: Path) -> None:
    names = {
        path.stem
        for folder in (made / "made" / "api").iterdir()
        if folder.is_dir()
        for path in folder.glob("[a-z]*.py")
    }
    assert names == {
        "submit_job", "validate_job", "list_jobs", "get_job", "cancel_job", "retry_job",
        "delete_job", "list_job_shards", "list_job_errors", "get_job_manifest",
        "get_job_log", "stream_job_events", "list_models", "list_caches", "get_cache_manifest",
        "change_cache", "delete_cache", "list_cache_pairs", "get_picture", "download_cache_file",
        "livez", "readyz", "get_metrics",
    }  # fmt: skip


def test_it_drives_a_job(
    made: Path, service: Service, dataset: Path, work: Path, reference_folder: Path
) -> None:
    asked = {
        "dataset": str(dataset),
        "output": str(work / "generated"),
        "reference": {"model": f"local-dir:{reference_folder}"},
        "workers": 1,
        "error_budget": 1.0,  # one of its shards is torn
        "metadata": {"made": "by a test"},
    }
    command = [sys.executable, "-c", DRIVE, service.url, json.dumps(asked)]
    environment = os.environ | {"PYTHONPATH": f"{made}:{os.environ['PYTHONPATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr + service.log.read_text()
