"""OpenMP's own account of how its threads wait."""

import os
import subprocess
import sys

import pytest

TOLD = "from rhocache_schemas.threads import wait_briefly; wait_briefly(); import torch"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "GOMP_SPINCOUNT = '1000'"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT = '7'"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
    ],
)
def test_threads_wait_briefly_unless_told(environment: dict[str, str], told: str) -> None:
    usual = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", TOLD],
        env=usual | environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told in done.stderr
