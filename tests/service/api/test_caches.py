"""``/v1/caches`` over real HTTP, on a cache made without workers."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_service.app import create_app
from rhocache_service.registry.caches import cache_id

from ..conftest import served, settings_without_ray
from ..made import FINGERPRINT, SHARD, completed, make_cache, picture

KEYS = [f"{number:03}" for number in range(30)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def spec(root: Path) -> ScoreSpec:
    return make_cache(root / "made", {key: f"caption {key}" for key in KEYS}, missing="005")


@pytest.fixture(scope="module")
def http(root: Path, spec: ScoreSpec) -> Iterator[httpx.Client]:
    app = create_app(settings_without_ray(root))
    completed(app.state.registry, spec)
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


def slug(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rpartition("/")[2]


def test_a_cache_is_listed_and_found_by_either_name(http: httpx.Client, spec: ScoreSpec) -> None:
    (listed,) = http.get("/v1/caches").json()["data"]
    assert (listed["id"], listed["uri"]) == (cache_id(spec.output), spec.output)
    written = Manifest.read(f"{spec.output}/manifest.json")
    for name in (listed["id"], FINGERPRINT.digest):
        assert Manifest.model_validate(http.get(f"/v1/caches/{name}").json()) == written
    assert slug(http.get("/v1/caches/cache_none")) == (404, "not-found")
    assert http.get("/v1/caches", params={"after": listed["id"]}).json()["data"] == []
    assert http.delete(f"/v1/jobs/{listed['job']}").status_code == 204
    assert http.get("/v1/caches").json()["data"] == [listed], "it outlives its job"


def test_pairs_by_rank(http: httpx.Client, spec: ScoreSpec) -> None:
    cache = cache_id(spec.output)
    lowest = http.get(f"/v1/caches/{cache}/pairs", params={"limit": 3}).json()
    assert [pair["key"] for pair in lowest["data"]] == ["000", "001", "002"]
    assert [pair["rank"] for pair in lowest["data"]] == [0, 1, 2]
    assert lowest["data"][0]["similarity"] == -0.5
    assert lowest["has_more"] is True
    highest = http.get(f"/v1/caches/{cache}/pairs", params={"order": "highest", "after": 27}).json()
    assert [pair["key"] for pair in highest["data"]] == ["001", "000"]
    assert highest["has_more"] is False
    passed = http.get(f"/v1/caches/{cache}/pairs", params={"after": 4, "limit": 2}).json()["data"]
    assert [pair["key"] for pair in passed] == ["004", "006"], "without the one that failed"


def test_pairs_by_key(http: httpx.Client, spec: ScoreSpec) -> None:
    place = f"/v1/caches/{cache_id(spec.output)}/pairs"
    (found,) = http.get(place, params={"key": "005"}).json()["data"]
    assert (found["shard"], found["row"], found["status"]) == (SHARD, 5, "image_missing")
    assert found["similarity"] is None
    assert http.get(place, params={"key": "none"}).json()["data"] == []


def test_pictures_are_the_datasets(http: httpx.Client, spec: ScoreSpec) -> None:
    place = f"/v1/caches/{cache_id(spec.output)}/pictures"
    got = http.get(place, params={"shard": SHARD, "row": 7})
    assert (got.content, got.headers["content-type"]) == (picture(7), "image/jpeg")
    assert "sandbox" in got.headers["content-security-policy"]
    for shard, row in ((SHARD, 5), (SHARD, 999), ("none.tar", 0), ("../../etc/passwd", 0)):
        got = http.get(place, params={"shard": shard, "row": row})
        assert slug(got) == (404, "not-found")


def test_files_whole_and_in_parts(http: httpx.Client, spec: ScoreSpec) -> None:
    place = f"/v1/caches/{cache_id(spec.output)}/files"
    whole = (Path(spec.output) / "shards" / f"{SHARD}.parquet").read_bytes()
    got = http.get(f"{place}/shards/{SHARD}.parquet")
    assert got.content == whole
    assert pq.read_table(io.BytesIO(got.content)).num_rows == len(KEYS)
    size = len(whole)
    for asked, first, last in (
        ("bytes=0-9", 0, 9), ("bytes=10-", 10, size - 1), ("bytes=-8", size - 8, size - 1),
        ("bytes=5-999999999", 5, size - 1),
    ):  # fmt: skip
        part = http.get(f"{place}/shards/{SHARD}.parquet", headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    for asked in (f"bytes={size}-", "bytes=9-3", "bytes=-0"):
        beyond = http.get(f"{place}/shards/{SHARD}.parquet", headers={"Range": asked})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for asked in ("bytes=0-1,3-4", "lines=1-2", "bytes=a-b"):
        assert http.get(f"{place}/manifest.json", headers={"Range": asked}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "lease.json", "progress.json", "shards", "shards/",
        "shards/..%2f..%2fdataset%2f00000.tar", "..%2fdataset%2f00000.tar", "%2fetc%2fpasswd",
        "shards/link.parquet", "shards/none.parquet",
    ],
)  # fmt: skip
def test_no_other_file(http: httpx.Client, spec: ScoreSpec, name: str) -> None:
    link = Path(spec.output) / "shards" / "link.parquet"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    status, kind = slug(http.get(f"/v1/caches/{cache_id(spec.output)}/files/{name}"))
    assert (status, kind) in ((404, "not-found"), (403, "uri-not-allowed"))
