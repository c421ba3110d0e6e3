"""Licences of what is installed with rhocache: none that nobody looked at."""

import csv
import re
import tomllib
from importlib.metadata import distribution
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from release.environments import needed
from release.licences import PAGE, POLICY, LicenceRefused, licence_of

from .conftest import ROOT

WRITTEN = tomllib.loads(POLICY.read_text())


def component(name: str, *licences: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1.2", "licenses": list(licences)}


@pytest.mark.parametrize(
    ("part", "licence"),
    [
        (component("one", {"license": {"id": "MIT"}}), "MIT"),
        (component("one", {"expression": "MIT AND Zlib"}), "MIT AND Zlib"),
        (
            component("one", {"license": {"name": "License :: OSI Approved :: BSD License"}}),
            "BSD License",
        ),
        (component("Ray"), "Apache-2.0"),
        (component("psycopg_binary", {"license": {"id": "LGPL-3.0-only"}}), "LGPL-3.0-only"),
    ],
)
def test_what_may_come_along(part: dict[str, Any], licence: str) -> None:
    assert licence_of(part, WRITTEN) == licence


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (component("one", {"license": {"id": "AGPL-3.0-only"}}), "AGPL-3.0-only"),
        (component("one", {"expression": "MIT AND GPL-3.0-only"}), "MIT AND GPL-3.0-only"),
        (
            component("one", {"license": {"id": "MIT"}}, {"license": {"name": "License :: Free"}}),
            "MIT, Free",
        ),
        (component("one"), "nothing told"),
        (component("ray", {"license": {"id": "BUSL-1.1"}}), "BUSL-1.1"),
        (component("psycopg", {"license": {"id": "GPL-3.0-only"}}), "GPL-3.0-only"),
    ],
    ids=["unknown", "in part", "of two", "none", "no longer none", "changed"],
)
def test_what_may_not(part: dict[str, Any], told: str) -> None:
    with pytest.raises(LicenceRefused, match=rf"^{part['name']} 1.2 is under {told}, which "):
        licence_of(part, WRITTEN)


def test_the_page_lists_all_that_comes_along_at_the_versions_that_were_tested() -> None:
    """``make licences`` writes it: here and now, what is needed with all extras."""
    listed = dict(re.findall(r"^\| ([\w.-]+) \| ([\w.!+-]+) \|", (ROOT / PAGE).read_text(), re.M))
    assert listed.pop("package") == "version"
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    tested = {canonicalize_name(name): version for name, version in pins.items()}
    assert listed == {name: tested[name] for name in listed}
    here = {canonicalize_name(part.name) for part in needed(distribution("rhocache"), "all")}
    assert here - {"rhocache"} == listed.keys()


def test_the_shipped_pairs_are_under_the_licences_that_the_page_names() -> None:
    with (ROOT / "examples" / "icons" / "sets.csv").open() as sets:
        found = {row["licence"] for row in csv.DictReader(sets)}
    assert found <= {"MIT", "Apache-2.0", "ISC", "CC0-1.0"}
