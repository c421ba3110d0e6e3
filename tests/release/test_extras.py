"""What each extra installs is all that its room imports, in environments of that alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.environments import link, needed, unpack

from .conftest import IMPORTS, ROOT
from .imports import LATER

EXTRAS = {  # by room
    "rhocache": "none",
    "rhocache_schemas": "none",
    "rhocache_service": "service",
    "rhocache_trainer": "trainer",
    "rhocache_workers": "workers",
}
# Imported where it is installed, or with what is required.
GUARDED = {
    ("rhocache.commands.doctor", "torch"),
    ("rhocache_schemas.api", "pydantic_core"),
    ("rhocache_schemas.job.kinds", "pydantic_core"),
    ("rhocache_schemas.storage.hub", "huggingface_hub"),
    ("rhocache_service.web.again", "pydantic_core"),
    ("rhocache_workers.exchange.export", "lance"),
}


@pytest.fixture(scope="module")
def wheel(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    return unpack(next(dist.glob("*.whl")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def python(wheel: Distribution, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in an empty folder, in an environment of the wheel with these extras."""
    (folder := tmp_path / "empty").mkdir()

    def run(extras: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        place = tmp_path / extras
        own = place / "bin" / "python"
        if not own.exists():
            link(needed(wheel, extras), place)
        command = [own, "-I", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    return run


def required(wheel: Distribution, extra: str) -> set[str]:
    """The names of what rhocache itself requires."""
    return {
        canonicalize_name(each.name)
        for each in map(Requirement, wheel.requires or [])
        if each.marker is None or each.marker.evaluate({"extra": extra})
    }


def test_a_room_imports_what_its_extra_requires(wheel: Distribution) -> None:
    """Within functions as well."""
    graph = grimp.build_graph(
        *EXTRAS, cache_dir=None, include_external_packages=True, exclude_type_checking_imports=True
    )
    brought_by = packages_distributions()
    lacking = set[tuple[str, str]]()
    for room, extra in EXTRAS.items():
        names = required(wheel, extra)
        for module in {room, *graph.find_descendants(room)}:
            tops = {
                each.partition(".")[0] for each in graph.find_modules_directly_imported_by(module)
            }
            for top in tops - EXTRAS.keys() - sys.stdlib_module_names:
                if not names & {canonicalize_name(name) for name in brought_by.get(top, [])}:
                    lacking.add((module, top))
    beside = {(module, top) for module, top in lacking if module in LATER}
    assert lacking - beside == GUARDED
    assert {module for module, _ in beside} == LATER.keys(), "all of them are needed"
    assert required(wheel, "ray-train") >= required(wheel, "trainer") | {"ray"}


def test_each_extra_is_part_of_all(wheel: Distribution) -> None:
    extras = {*wheel.metadata.get_all("Provides-Extra", [])}
    assert extras == {
        "all",
        "benchmarks",
        "dev",
        "hf",
        "lance",
        "ray-train",
        "service",
        "trainer",
        "workers",
    }
    for extra in extras - {"benchmarks", "dev", "lance"}:  # which is large, and for one format
        assert required(wheel, extra) <= required(wheel, "all")


def test_a_client_needs_no_extra(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = python("none", IMPORTS, "rhocache", "rhocache_schemas")
    assert (done.stderr, done.stdout) == ("", "{}")
    golden = ROOT / "tests" / "schemas" / "cache" / "golden-1"
    inspected = json.loads(python("none", "-m", "rhocache", "inspect", golden, "--json").stdout)
    assert (inspected["rows"], inspected["ok"]) == (7, 6)
    for command, extra in (
        (["score", "d", "--model=local-dir:m", "--out=o"], "workers"),
        (["serve"], "service"),
        (["train", "c.yaml"], "trainer"),
    ):
        refused = python("none", "-m", "rhocache", *command)
        assert refused.returncode == 1
        assert f"needs the {extra} extra" in refused.stderr


def test_the_service_needs_its_extra_alone(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = python("service", IMPORTS, "rhocache", "rhocache_schemas", "rhocache_service")
    assert (done.stderr, done.stdout) == ("", "{}")
    told = python("service", "-m", "rhocache_service.openapi_document")
    assert told.stdout == (ROOT / "docs" / "openapi.json").read_text(), told.stderr
