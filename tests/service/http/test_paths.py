"""No trick with a path leads a job out of the allowed roots: neither the service nor a worker."""

import itertools
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.allowed_roots import check_allowed
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.paths import absolute, named_locations

SECRET = "secret"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed root, with links out of it, beside a folder that is not allowed."""
    (tmp_path / SECRET).mkdir()
    (tmp_path / SECRET / "0.tar").touch()
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (root / "inside" / "0.tar").touch()
    (root / "out").symlink_to(tmp_path / SECRET)
    (root / "up").symlink_to("..")
    (root / "inside" / "again").symlink_to(root / "out")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "root-beside").mkdir()
    return root


def tricks(root: Path) -> list[str]:
    """Ways to write a place outside, over 500 of them."""
    outside = [
        f"../{SECRET}", f"inside/../../{SECRET}", f"out/../{SECRET}", "out", "out/0.tar",
        f"up/{SECRET}", f"up/root/up/{SECRET}", "inside/again", "inside/again/0.tar", "loop",
        "../root-beside", "inside/../..", f"./././../{SECRET}", f"inside//..//..//{SECRET}",
        "../../../../../../../../../../etc", f"..//{SECRET}/", f"../{SECRET}/{{0..1}}.tar",
        f"inside/{{../../{SECRET},x}}/0.tar", f"..\\..\\{SECRET}/../../{SECRET}",
        f"new/../../{SECRET}", f"new/../out/../../{SECRET}",
    ]  # fmt: skip
    prefixes = [f"{root}/", f"file://{root}/", f"{root}//", f"{root}/./", f"/{root}/",
                f"file:///{root}/", f"{root}/inside/../"]  # fmt: skip
    endings = ["", "/", "/.", "/x/.."]
    made = ["".join(parts) for parts in itertools.product(prefixes, outside, endings)]
    made += [f"{root}/{'../' * depth}{SECRET}" for depth in range(1, 40)]
    made += [f"{root}\0/../{SECRET}", f"{root}/\0", f"{root}beside", f"{root}-beside/x"]
    for scheme in ("http", "https", "ftp", "pipe", "data", "s3a", "FILE", "hdfs", "javascript"):
        made += [f"{scheme}://host/{SECRET}", f"{scheme}:{root}", f"{scheme}:///{root}/../x"]
    made += [f"s3://bucket/{part}" for part in ("..", "a/../../b", "", "a//b", "./a", "other")]
    made += [f"s3://allowed/{part}" for part in ("../x", "a/../x", "a//x", "a/./x", "..")]
    made += [f"s3://allowed-not/{SECRET}", "s3://", "s3:///x", "gs://allowed/x", "pipe:cat /etc/x"]
    made += [quote(f"{root}/../{SECRET}", safe=""), f"{root}/%2e%2e/../../{SECRET}"]
    made += ["~", "~root", "$HOME", "/", "/etc/passwd", "/proc/self/environ", ".", "..", "-"]
    return list(dict.fromkeys(made))


def test_no_trick_leads_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    roots, tried, escapes = [str(root), "s3://allowed/prefix"], 0, []
    truly = os.path.realpath(root)
    for trick, field in itertools.product(tricks(root), ("dataset", "output", "model", "weights")):
        tried += 1
        fields = {
            "dataset": f"{root}/inside",
            "output": f"{root}/cache",
            "reference": {"model": f"local-dir:{root}/model"},
        }
        if field == "model":
            fields["reference"] = {"model": f"local-dir:{trick}"}
        elif field == "weights":
            fields["reference"] = {"model": "ViT-B-32", "pretrained": trick}
        else:
            fields[field] = trick
        try:
            spec = absolute(ScoreSpec.model_validate(fields))
            locations = named_locations(spec)
            for location in locations:
                check_allowed(location, roots)
            locations += [shard.uri for shard in list_shards(spec.dataset)]
            for location in locations:
                check_allowed(location, roots)
        except (RhocacheError, ValueError):
            continue
        for location in locations:
            place = os.path.realpath(location.removeprefix("file://"))
            if not place.startswith(truly + os.sep):
                escapes.append((field, trick))
    assert escapes == []
    assert tried > 2000
