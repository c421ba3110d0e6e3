import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rhocache_schemas.job import JobSpec
from rhocache_schemas.records import Manifest, Progress


def run_job(spec: bytes | JobSpec, address: str, **variables: str) -> subprocess.CompletedProcess:
    """The entrypoint as Ray runs it: no arguments, RAY_ADDRESS and the job in the environment."""
    return subprocess.run(
        [sys.executable, "-m", "rhocache_workers.job"],
        env=os.environ
        | {
            "RAY_ADDRESS": address,
            "RHOCACHE_JOB_SPEC": spec if isinstance(spec, str) else spec.model_dump_json(),
            "RHOCACHE_JOB_ID": "job_7",
        }
        | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_job_comes_as_data_in_the_environment(spec: JobSpec, ray_address: str) -> None:
    folder = spec.reference.local_dir
    assert folder is not None
    roots = json.dumps([str(Path(spec.output).parent), folder])
    done = run_job(spec, ray_address, RHOCACHE_ALLOWED_ROOTS=roots)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "rhocache: 24 of 24 pairs scored\n"
    assert Manifest.read(f"{spec.output}/manifest.json").ok == 24
    assert Progress.read(f"{spec.output}/progress.json").job == "job_7"


@pytest.mark.parametrize(
    ("change", "variables", "code", "message"),
    [
        ({"dataset": "/no/such"}, {}, 1, "no dataset at /no/such"),
        ({}, {"RHOCACHE_ALLOWED_ROOTS": '["/srv"]'}, 2, "not under an allowed root"),
        ({}, {"RHOCACHE_JOB_SPEC": '{"entrypoint": "rm"}'}, 2, "entrypoint: unknown field"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    spec: JobSpec, change: dict, variables: dict[str, str], code: int, message: str
) -> None:
    done = run_job(spec.model_copy(update=change), "127.0.0.1:1", **variables)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("rhocache: error: ")
    assert done.stderr.count("\n") == 1
