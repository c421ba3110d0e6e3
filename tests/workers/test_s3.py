"""A dataset and a cache in a real object store."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from rhocache_schemas.job import JobSpec
from rhocache_schemas.records import Manifest
from rhocache_workers.inspect import inspect
from rhocache_workers.verify import verify

DRIVER = """
import sys
from rhocache_schemas.job import JobSpec
from rhocache_workers.driver import score
print(score(JobSpec.model_validate_json(sys.argv[1])).pairs_per_second)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.S3FileSystem]:
    """A SeaweedFS with one bucket, named by the usual environment variables."""
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        "-s3",
        "-filer",
        f"-dir={tmp_path}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-volume.max=4",
    ]
    for name, port in ports.items():
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={free_port()}"]
    with (tmp_path / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield wait_for_bucket(server, tmp_path / "weed.log")
        finally:
            server.kill()  # it holds nothing that is wanted, and takes a minute to say good-bye
            server.wait()


def wait_for_bucket(server: subprocess.Popen, log: Path) -> fs.S3FileSystem:
    deadline = time.monotonic() + 60
    while True:
        try:
            store = fs.S3FileSystem(
                endpoint_override=os.environ["AWS_ENDPOINT_URL"],
                region="us-east-1",
                allow_bucket_creation=True,
                request_timeout=5,
                connect_timeout=5,
            )
            store.create_dir("data")
            with store.open_output_stream("data/probe") as stream:
                stream.write(b"probe")
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        else:
            return store


def test_a_job_from_bucket_to_bucket(bucket: fs.S3FileSystem, spec: JobSpec) -> None:
    for tar in Path(spec.dataset).iterdir():
        with bucket.open_output_stream(f"data/pairs/{tar.name}") as stream:
            stream.write(tar.read_bytes())
    cloud = spec.model_copy(update={"dataset": "s3://data/pairs", "output": "s3://data/cache"})

    def run() -> float:
        # Ray's processes take their credentials from the driver's environment.
        driver = [sys.executable, "-c", DRIVER, cloud.model_dump_json()]
        return float(subprocess.run(driver, capture_output=True, check=True).stdout)

    assert run() > 0
    assert Manifest.read("s3://data/cache/manifest.json").ok == 24
    assert inspect(cloud.output).rows == 24
    report = verify(cloud.output, cloud.dataset)
    assert (report.findings, report.pairs_compared) == ([], 24)

    bucket.delete_file("data/cache/shards/00001.tar.parquet")
    assert "00001.tar" in verify(cloud.output).findings[0].where
    before = bucket.get_file_info("data/cache/shards/00000.tar.parquet").mtime
    assert run() > 0
    assert verify(cloud.output).ok
    assert bucket.get_file_info("data/cache/shards/00000.tar.parquet").mtime == before
