import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from rhocache_schemas.cache.documents import LeaseHolder
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.errors import CacheBusy

Quick = partial(Lease, renew_seconds=0.05, stale_seconds=1.0)


def read(cache: Path) -> LeaseHolder:
    return LeaseHolder.read(str(cache / "lease.json"))


def leave(cache: Path, **holder) -> None:
    cache.mkdir(exist_ok=True)
    left = LeaseHolder(**{"run": "other", "host": "elsewhere", "pid": 1} | holder)
    (cache / "lease.json").write_bytes(left.to_json())


def test_a_second_run_is_told_who_is_at_work(tmp_path: Path) -> None:
    with (
        Quick(str(tmp_path), "job_1"),
        pytest.raises(CacheBusy, match=f"process {os.getpid()} on .*, job job_1"),
        Lease(str(tmp_path), None),
    ):
        pass
    assert not (tmp_path / "lease.json").exists()


def test_the_next_run_of_a_job_takes_over_from_the_last(tmp_path: Path) -> None:
    with (
        Quick(str(tmp_path), "job_1") as last,
        Lease(str(tmp_path), "job_1", stale_seconds=1000),
        pytest.raises(CacheBusy, match="job_1"),
    ):
        last.confirm()


def test_it_waits_for_one_that_is_just_ending(tmp_path: Path) -> None:
    leave(tmp_path)
    code = "import sys, time, pathlib; time.sleep(0.3); pathlib.Path(sys.argv[1]).unlink()"
    ending = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lease.json")])
    with Lease(str(tmp_path), None, stale_seconds=60):
        assert read(tmp_path).pid == os.getpid()
    assert ending.wait() == 0


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    leave(tmp_path, host=socket.gethostname(), pid=process.pid)
    with Lease(str(tmp_path), None, stale_seconds=1000):
        assert read(tmp_path).pid == os.getpid()


def test_a_lease_that_nobody_renews_is_taken(tmp_path: Path) -> None:
    leave(tmp_path)
    with Quick(str(tmp_path), None) as lease:
        lease.confirm()
        assert read(tmp_path).run != "other"


def test_whoever_lost_it_is_told_and_leaves_it_alone(tmp_path: Path) -> None:
    with Quick(str(tmp_path), None) as lease:
        leave(tmp_path)
        with pytest.raises(CacheBusy, match="process 1 on elsewhere"):
            lease.confirm()
    assert read(tmp_path).run == "other"


def test_renewals_go_on_until_it_is_lost(tmp_path: Path) -> None:
    def wait_for_renewal(renewals: int) -> None:
        while read(tmp_path).renewals <= renewals:
            time.sleep(0.01)

    with Quick(str(tmp_path), None) as lease:
        wait_for_renewal(0)
        wait_for_renewal(read(tmp_path).renewals)
        (tmp_path / "lease.json").unlink()
        with pytest.raises(CacheBusy, match="has ended since"):
            lease.confirm()
    assert not (tmp_path / "lease.json").exists()
