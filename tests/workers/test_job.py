import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rhocache_schemas.cache.documents import Manifest, Progress
from rhocache_schemas.job.kinds import JobOrder
from rhocache_schemas.job.kinds.score import ScoreSpec


def run_job(folder: Path, order: bytes, address: str) -> subprocess.CompletedProcess:
    """The entrypoint as Ray runs it: no arguments, RAY_ADDRESS, and the order in the folder."""
    (folder / JobOrder.FILE).write_bytes(order)
    return subprocess.run(
        [sys.executable, "-m", "rhocache_workers.job"],
        env=os.environ | {"RAY_ADDRESS": address},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def order(spec: ScoreSpec, *roots: str) -> bytes:
    return JobOrder(job="job_7", start=1, spec=spec, roots=list(roots)).to_json()


def test_a_job_comes_as_data_in_a_file(spec: ScoreSpec, ray_address: str, tmp_path: Path) -> None:
    folder = spec.reference.local_dir
    assert folder is not None
    asked = order(spec, str(Path(spec.output).parent), folder)
    done = run_job(tmp_path, asked, ray_address)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "rhocache: 24 of 24 pairs scored\n"
    assert Manifest.read(f"{spec.output}/manifest.json").ok == 24
    assert Progress.read(f"{spec.output}/progress.json").job == "job_7"


@pytest.mark.parametrize(
    ("change", "roots", "code", "message"),
    [
        ({"dataset": "/no/such"}, ["/"], 1, "no dataset at /no/such"),
        ({}, ["/srv"], 2, "not under an allowed root"),
        ({"entrypoint": "rm"}, ["/"], 2, "spec.entrypoint: unknown field"),
        ({"kind": "os.system"}, ["/"], 2, "no job kind 'os.system' is installed where drivers run"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    spec: ScoreSpec, change: dict, roots: list[str], code: int, message: str, tmp_path: Path
) -> None:
    changed = json.dumps(json.loads(order(spec, *roots)) | {"spec": spec.model_dump() | change})
    done = run_job(tmp_path, changed.encode(), "127.0.0.1:1")
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("rhocache: error: ")
    assert done.stderr.count("\n") == 1


def test_a_job_without_an_order(tmp_path: Path) -> None:
    done = run_job(tmp_path, b"{", "127.0.0.1:1")
    assert (done.returncode, "job.json is not JSON" in done.stderr) == (2, True)
