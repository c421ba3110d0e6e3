"""The wheel and the sdist hold what git has of the rooms and the examples, byte by byte."""

import os
import shutil
import subprocess
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

from .conftest import ROOT, build

ROOMS = ("client", "schemas", "service", "trainer", "workers")
EXAMPLES = ("configs", "icons", "reference")
BESIDE = ("CHANGELOG.md", "LICENSE", "README.md", "constraints.txt", "pyproject.toml")


@pytest.fixture(scope="module")
def kept() -> list[Path]:
    """What git has in the working tree, new files that are not added yet as well."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0")[:-1] if (ROOT / name).is_file()]


def in_wheel(path: Path) -> str | None:
    match path.parts:
        case [room, package, *_] if room in ROOMS and package.startswith("rhocache"):
            return path.relative_to(room).as_posix()
        case ["examples", folder, *_] if folder in EXAMPLES:
            return f"rhocache/{path}"
    return None


def test_the_wheel_holds_the_rooms_and_what_quickstart_works_on(
    dist: Path, kept: list[Path]
) -> None:
    expected = {name: path for path in kept if (name := in_wheel(path))}
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert found == expected.keys()
        differing = [
            name
            for name, path in expected.items()
            if wheel.read(name) != (ROOT / path).read_bytes()
        ]
    assert differing == []
    for needed in ("rhocache_schemas/models.json", "rhocache_service/web/static/page.css"):
        assert needed in found


def test_the_sdist_holds_that_and_what_its_reader_needs(dist: Path, kept: list[Path]) -> None:
    expected = {path.as_posix() for path in kept if in_wheel(path)} | {*BESIDE}
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        found = {member.name.partition("/")[2] for member in sdist}
    assert found == expected | {".gitignore", "PKG-INFO"}  # hatchling's own


def test_another_build_makes_the_same_bytes(dist: Path, kept: list[Path], tmp_path: Path) -> None:
    """Elsewhere, of files with other times and permissions; the wheel of the tree itself."""
    copy, before = tmp_path / "copy", os.umask(0o077)
    try:
        for path in kept:
            if in_wheel(path) or path.as_posix() in (*BESIDE, ".gitignore"):
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, copy / path)
        again = build(copy, tmp_path / "dist", "--wheel", "--sdist")
    finally:
        os.umask(before)
    names = sorted(path.name for path in dist.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [
        name for name in names if (dist / name).read_bytes() != (again / name).read_bytes()
    ] == []


def test_the_wheel_says_what_it_is(dist: Path) -> None:
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        told = message_from_bytes(wheel.read(name))
        assert name.replace("METADATA", "licenses/LICENSE") in wheel.namelist()
    assert told["Name"] == "rhocache"
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
