"""Prometheus' configuration by its own tool, and Grafana's dashboard by its own model."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rhocache_service.app import create_app

from ..service.conftest import settings_without_ray

_BESIDE = Path(sys.executable).with_name("promtool")
PROMTOOL = str(_BESIDE) if _BESIDE.exists() else shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="make promtool brings it")
DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "rhocache.json").read_text())
QUERIES = [
    *(rule["expr"] for rule in ALERTS),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
]


@needs_promtool
@pytest.mark.parametrize(
    "command",
    ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"],
)
def test_prometheus_takes_it_and_alerts_as_it_should(command: str) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *command.split()], cwd=DEPLOY / "prometheus", check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_asked_for_is_there(tmp_path: Path) -> None:
    exposition = generate_latest(create_app(settings_without_ray(tmp_path)).state.metrics).decode()
    there: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for suffix in ("", "_total", "_bucket", "_count"):
            labels = {label for sample in family.samples for label in sample.labels}
            there[family.name + suffix] = labels
    asked = {name for query in QUERIES for name in re.findall(r"\brhocache_\w+", query)}
    assert asked <= there.keys()
    for query in QUERIES:
        for name, labels in re.findall(r"\b(rhocache_\w+)\{([^}]*)\}", query):
            histogram = {"route", "status", "le", "method"}  # empty before the first request
            known = there[name] or histogram
            assert set(re.findall(r"(\w+)\s*=?[=~!]", labels)) <= known, query


def test_the_dashboard_is_as_it_is_made() -> None:
    specification = importlib.util.spec_from_file_location(
        "dashboard", DEPLOY / "grafana" / "dashboard.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.FILE.read_text() == module.made(), "make dashboard writes it anew"


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    tested = (DEPLOY / "prometheus" / "alerts_test.yml").read_text()
    for rule in ALERTS:
        assert rule["annotations"].keys() == {"summary", "action"}
        assert tested.count(f"alertname: {rule['alert']}") >= 2, "where it fires and where not"
