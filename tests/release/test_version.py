"""A release has one version, wherever it is written."""

import re
import tomllib

import pytest
import yaml

from .conftest import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_changelog_begins_with_it() -> None:
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert re.fullmatch(rf"{re.escape(VERSION)}, (unreleased|\d{{4}}-\d\d-\d\d)", heading[1])


def test_the_chart_has_it() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "chart" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


@pytest.mark.parametrize("name", ["docker-compose.yml", "docs/deploy.md"])
def test_images_have_it(name: str) -> None:
    found = re.findall(r"rhocache-(?:api|ray|trainer):([\w.]+)", (ROOT / name).read_text())
    assert {*found} == {VERSION}
