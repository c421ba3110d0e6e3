"""A dataset and a cache in a real object store."""

import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caches import commit, in_shards
from faults import crew_here
from proxy import Fault, proxy
from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.cache.deletion import delete_cache
from rhocache_schemas.cache.documents import Manifest, Progress, ShardFailure
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheIncomplete, InvalidInput, StorageError
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.kinds.select import SelectSpec
from rhocache_workers.exchange.export import export
from rhocache_workers.maintain.convert import convert
from rhocache_workers.maintain.inspect import inspect
from rhocache_workers.maintain.merge import merge
from rhocache_workers.maintain.verify import verify
from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.selection.work import Select
from rhocache_workers.run import driver

DRIVER = """
import sys
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score
print(score(ScoreSpec.model_validate_json(sys.argv[1])).pairs_per_second)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fs.S3FileSystem]:
    """A SeaweedFS with one bucket, named by the usual environment variables."""
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    variables = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # where nothing answers
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    folder = tmp_path_factory.mktemp("weed")
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        "-s3",
        "-filer",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-volume.max=4",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    for name, port in ports.items():
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={free_port()}"]
    with (folder / "weed.log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield wait_for_bucket(server, folder / "weed.log")
        finally:
            server.kill()  # it holds nothing that is wanted, and takes a minute to say good-bye
            server.wait()


def wait_for_bucket(server: subprocess.Popen, log: Path) -> fs.S3FileSystem:
    while True:
        try:
            store = fs.S3FileSystem(
                endpoint_override=os.environ["AWS_ENDPOINT_URL_S3"],
                region="us-east-1",
                allow_bucket_creation=True,
            )
            store.create_dir("data")
            with store.open_output_stream("data/probe") as stream:
                stream.write(b"probe")
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        else:
            return store


def upload(bucket: fs.S3FileSystem, spec: ScoreSpec, name: str) -> ScoreSpec:
    """The same job in the bucket."""
    for tar in Path(spec.dataset).iterdir():
        with bucket.open_output_stream(f"data/{name}/pairs/{tar.name}") as stream:
            stream.write(tar.read_bytes())
    return spec.model_copy(
        update={"dataset": f"s3://data/{name}/pairs", "output": f"s3://data/{name}/cache"}
    )


def test_a_job_from_bucket_to_bucket(
    bucket: fs.S3FileSystem, spec: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With temporary files where no socket of Ray's could lie."""
    cloud = upload(bucket, spec, "whole ~%41")
    (tmp_path / ("t" * 100)).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("t" * 100)))

    def run() -> float:
        # Ray's processes take their credentials from the driver's environment.
        driver = [sys.executable, "-c", DRIVER, cloud.model_dump_json()]
        return float(subprocess.run(driver, capture_output=True, check=True).stdout)

    assert run() > 0
    assert Manifest.read(f"{cloud.output}/manifest.json").ok == 24
    assert inspect(cloud.output).rows == 24
    report = verify(cloud.output, cloud.dataset)
    assert (report.findings, report.pairs_compared) == ([], 24)

    bucket.delete_file("data/whole ~%41/cache/shards/00001.tar.parquet")
    assert "00001.tar" in verify(cloud.output).findings[0].where
    before = bucket.get_file_info("data/whole ~%41/cache/shards/00000.tar.parquet").mtime
    assert run() > 0
    assert verify(cloud.output).ok
    assert bucket.get_file_info("data/whole ~%41/cache/shards/00000.tar.parquet").mtime == before

    assert len(delete_cache(cloud.output).own) == 8  # three shards, and five documents
    left = bucket.get_file_info(fs.FileSelector("data/whole ~%41", recursive=True))
    assert {info.path.rpartition("/")[2] for info in left} == {
        "pairs", "00000.tar", "00001.tar", "00002.tar",
    }  # fmt: skip


class Network:
    """Faults to come, by method and the end of the path; an endless one is no list."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], list[Fault] | Fault] = {}
        self.seen: list[tuple[str, str]] = []

    def __call__(self, method: str, path: str) -> Fault:
        self.seen.append((method, path))
        for (verb, end), fault in self.faults.items():
            if verb == method and path.partition("?")[0].endswith(end):
                return (fault.pop(0) if fault else None) if isinstance(fault, list) else fault
        return None


@pytest.fixture
def network(bucket: fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """What lies between the bucket and the runs of this process."""
    monkeypatch.setattr(driver, "_crew", crew_here)
    faults = Network()
    port = int(os.environ["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])
    with proxy("127.0.0.1", port, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield faults


def test_a_network_that_fails_now_and_then(
    bucket: fs.S3FileSystem, network: Network, spec: ScoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.score(spec)
    cloud = upload(bucket, spec, "flaky")
    monkeypatch.setattr(storage, "_SILENT_SECONDS", 1)
    network.faults = {
        ("GET", "pairs/00000.tar"): [503, "reset"],
        ("GET", "pairs/00001.tar"): ["cut", "stall"],
        ("GET", "pairs/00002.tar"): ["trickle"],
        ("GET", "lease.json"): [500, "reset"],
        ("PUT", "lease.json"): [503],
        ("PUT", "progress.json"): ["reset"],
        ("PUT", "plan.json"): [500],
        ("PUT", "shards/00000.tar.parquet"): [503, "reset"],
        ("PUT", "shards/00002.tar.parquet"): ["stall"],
        ("PUT", "index.parquet"): ["reset"],
        ("PUT", "manifest.json"): [500],
    }
    summary = driver.score(cloud)
    assert [fault for fault in network.faults.values() if fault] == []
    assert (summary.rows, summary.failed_shards) == (24, 0)
    for file in Path(spec.output, "shards").iterdir():
        assert storage.read_bytes(f"{cloud.output}/shards/{file.name}") == file.read_bytes()
    assert verify(cloud.output, cloud.dataset).findings == []


def test_a_large_shard_is_read_in_few_requests(
    bucket: fs.S3FileSystem, network: Network, spec: ScoreSpec, tmp_path: Path, write_tar: Callable
) -> None:
    """A store allows some thousand a second, and a thousand encoders read as many shards."""
    with tarfile.open(Path(spec.dataset, "00000.tar")) as tar:
        pair = {each.name: tar.extractfile(each).read() for each in tar.getmembers()[:2]}
    padded = {n: d + bytes(3 << 20) if n.endswith("jpg") else d for n, d in pair.items()}
    write_tar(tmp_path / "large" / "00000.tar", [padded])
    large = spec.model_copy(update={"dataset": str(tmp_path / "large")})
    assert driver.score(upload(bucket, large, "large")).ok == 1
    # The first is for the look at what kind of file it is.
    read = [m for m, path in network.seen if path.endswith("/00000.tar") and m == "GET"]
    assert read == ["GET"] * 2


def test_a_network_that_goes_on_failing(
    bucket: fs.S3FileSystem, network: Network, spec: ScoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of reading it costs the shard, of writing the run; later all is made good."""
    monkeypatch.setattr(storage, "_ATTEMPTS", 2)
    cloud = upload(bucket, spec, "broken")
    network.faults = {("GET", "pairs/00001.tar"): 500}
    summary = driver.score(cloud)
    assert (summary.rows, summary.failed_shards) == (16, 1)
    failure = ShardFailure.read(f"{cloud.output}/failures/00001.tar.json")
    assert (failure.code, "HTTP status 500" in failure.detail) == ("io_error", True)

    network.faults = {("PUT", "shards/00001.tar.parquet"): "reset"}
    uri = f"{cloud.output}/shards/00001.tar.parquet"
    with pytest.raises(StorageError, match=f"cannot write {uri}: .*PutObject") as caught:
        driver.score(cloud)
    assert caught.value.exit_code == 1
    fault = Progress.read(f"{cloud.output}/progress.json").fault
    assert fault is not None
    assert fault.code == "storage"

    network.faults = {}
    before = bucket.get_file_info("data/broken/cache/shards/00000.tar.parquet").mtime
    summary = driver.score(cloud)
    assert (summary.rows, summary.failed_shards) == (24, 0)
    assert bucket.get_file_info("data/broken/cache/shards/00000.tar.parquet").mtime == before
    assert verify(cloud.output, cloud.dataset).findings == []


def test_caches_of_caches_and_tables_in_a_bucket(bucket: fs.S3FileSystem, tmp_path: Path) -> None:
    """Each as it is on a disk."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2, 8, 64))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    image, text = vectors.astype(np.float16)
    rows = in_shards(image, text, {"a/0.tar": 5, "b.tar": 3}, [1])
    caches: dict[str, str] = {}
    for root in (str(tmp_path), "s3://data/derived"):
        cache = caches[root] = f"{root}/cache"
        commit(cache, rows)
        commit(f"{root}/other", in_shards(image, text, {"c.tar": 8}, []))
        convert(cache, "int8", f"{root}/int8")
        merge([cache, f"{root}/other"], f"{root}/merged")
        export(cache, "parquet-lists", f"{root}/lists")
        asked = {"cache": cache, "output": f"{root}/losses"}
        make_table(LossesSpec.model_validate(asked), Losses, here=True)
        asked = {"cache": cache, "output": f"{root}/chosen", "size": 4}
        make_table(SelectSpec.model_validate(asked), Select, here=True)
        for made in (f"{root}/int8", f"{root}/merged"):
            assert verify(made).findings == []
    assert names_of(bucket, "data/derived") == {
        str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()
    }
    for file in tmp_path.rglob("*.parquet"):
        there = f"s3://data/derived/{file.relative_to(tmp_path)}"
        if "losses" in there or "chosen" in there:  # which are bound to their cache's manifest
            assert read_table(there) == pq.read_table(file)
        else:
            assert storage.read_bytes(there) == file.read_bytes(), there
    for root in caches:
        with pytest.raises(InvalidInput, match="int8 is there already"):
            convert(caches[root], "int8", f"{root}/int8")


def names_of(bucket: fs.S3FileSystem, folder: str) -> set[str]:
    infos = bucket.get_file_info(fs.FileSelector(folder, recursive=True))
    return {info.path.removeprefix(f"{folder}/") for info in infos if info.is_file}


def read_table(uri: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.read_bytes(uri)))


CONVERT = """
import sys
from rhocache_workers.maintain.convert import convert
convert(sys.argv[1], "int8", sys.argv[2])
"""


def test_a_conversion_to_a_bucket_that_is_killed(
    bucket: fs.S3FileSystem, network: Network, tmp_path: Path
) -> None:
    """What it leaves is an incomplete cache, which can be deleted, and made again."""
    image = np.eye(8, dtype=np.float16)
    cache = commit(tmp_path / "cache", in_shards(image, image, {"a.tar": 5, "b.tar": 3}, []))
    out = "s3://data/killed/int8"
    network.faults = {("PUT", "b.tar.parquet"): 503}
    with subprocess.Popen([sys.executable, "-c", CONVERT, str(cache), out]) as child:
        while ("PUT", "/data/killed/int8/shards/b.tar.parquet") not in seen(network):
            assert child.poll() is None
            time.sleep(0.05)
        child.kill()
    network.faults = {}
    assert names_of(bucket, "data/killed/int8") == {"plan.json", "shards/a.tar.parquet"}
    with pytest.raises(CacheIncomplete, match=r"has no manifest\.json"):
        CacheReader.open(out)
    with pytest.raises(InvalidInput, match="is there already"):
        convert(str(cache), "int8", out)
    delete_cache(out)
    convert(str(cache), "int8", out)
    assert verify(out).findings == []


def seen(network: Network) -> set[tuple[str, str]]:
    return {(method, path.partition("?")[0]) for method, path in network.seen}
