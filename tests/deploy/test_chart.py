"""The Helm chart, rendered by Helm itself and held against Kubernetes' published schemas."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import HelmError
from helm_python.chart import Chart, lint
from kubernetes_validate import validate

from rhocache_schemas.variables import tell_unknown
from rhocache_service.settings import Settings, unknown_secrets

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
VERSION = "1.34"
LEAST: dict[str, Any] = {"storage": {"allowRoots": ["s3://bucket/team"]}}
MOST: dict[str, Any] = {
    "image": {"registry": "registry.example.org/ml", "tag": "0.2.0", "pullSecrets": ["pull"]},
    "storage": LEAST["storage"] | {"secret": "s3", "environment": {"AWS_REGION": "eu-west-1"}},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    "references": {"claim": "references"},
    "api": {
        "replicas": 3,
        "allowHosts": ["rho.example.org"],
        "trustedProxies": ["10.0.0.0/8"],
        "rootPath": "/rhocache",
        "settings": {"MAX_WAITING_JOBS": 50},
        "nodeSelector": {"pool": "small"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    },
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
    "ray": {
        "autoscaling": True,
        "workers": [
            {
                "name": "gpu",
                "imageSuffix": "-cuda",
                "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": "8", "memory": "32Gi"}},
                "tolerations": [{"key": "spot", "operator": "Exists"}],
                "terminationGracePeriodSeconds": 30,
            }
        ],
    },
    "networkPolicy": {"fromNamespaces": {"kubernetes.io/metadata.name": "ingress-nginx"}},
    "monitoring": {"serviceMonitor": True, "alerts": True, "labels": {"release": "prometheus"}},
}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    with Chart.load(CHART) as chart:
        files = chart.render(values=values, name="team", namespace="ml")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def of_kind(parts: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in parts if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pod template, those inside custom resources too."""
    found: list[dict[str, Any]] = []
    for part in parts:
        spec = part.get("spec", {})
        groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])]
        found += [each["template"] for each in (spec, *groups) if "template" in each]
    return found


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_kubernetes_would_take_every_part(values: dict[str, Any]) -> None:
    parts = render(values)
    for part in parts:
        if "." not in part["apiVersion"].partition("/")[0] or "k8s.io" in part["apiVersion"]:
            validate(part, VERSION, strict=True)
    for number, pod in enumerate(pods(parts)):
        named = {"metadata": pod["metadata"] | {"name": f"pod-{number}"}, "spec": pod["spec"]}
        validate({"apiVersion": "v1", "kind": "Pod", **named}, VERSION, strict=True)
    kinds = {each["kind"] for each in parts}
    assert {"Deployment", "Service", "PodDisruptionBudget", "Job", "NetworkPolicy", "RayCluster",
            "ServiceAccount"} <= kinds  # fmt: skip
    monitored = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Ingress"}
    assert monitored & kinds == (monitored if values is MOST else set())


@pytest.mark.parametrize(("values", "seconds"), [(LEAST, [120]), (MOST, [30])])
def test_a_worker_is_drained_before_it_is_ended(values: dict[str, Any], seconds: list[int]) -> None:
    cluster = of_kind(render(values), "RayCluster", "team-rhocache-ray")["spec"]
    specs = [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    assert [spec["terminationGracePeriodSeconds"] for spec in specs] == seconds
    for spec, ended in zip(specs, seconds, strict=True):
        environment = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        assert environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(ended - 5)
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S" not in str(head)


def test_lint_finds_nothing() -> None:
    found = lint(CHART, values=MOST, strict=True)["messages"]
    assert [each for each in found if "icon is recommended" not in each["error"]] == []


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_no_pod_is_root_or_writes_its_root(values: dict[str, Any]) -> None:
    for pod in pods(render(values)):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            written = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in written


def test_the_service_takes_the_settings_that_the_chart_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deployment = of_kind(render(MOST), "Deployment", "team-rhocache")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    (secrets,) = [
        volume["projected"]["sources"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "secrets"
    ]
    for source in secrets:
        for item in source["secret"]["items"]:
            value = "postgresql://u:p@h/d" if "url" in item["path"] else "token"
            (tmp_path / item["path"]).write_text(value)
    monkeypatch.setattr("rhocache_service.settings.SECRET_FILES", tmp_path)
    assert unknown_secrets() == []
    assert list(tell_unknown(os.environ)) == []
    settings = Settings.load(host="0.0.0.0", data_dir="/data")
    settings.check(has_keys=True)
    assert settings.roots == ["s3://bucket/team", "/references"]
    assert (settings.root_path, settings.max_waiting_jobs) == ("/rhocache", 50)
    assert {"team-rhocache.ml.svc", "rho.example.org"} <= set(settings.allow_host)
    assert settings.ray_address == "http://team-rhocache-ray-head-svc:8265", "KubeRay's Service"
    assert of_kind(render(MOST), "RayCluster", "team-rhocache-ray")
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}


def test_selectors_choose_the_pods() -> None:
    parts = render(MOST)
    labels = [pod["metadata"]["labels"].items() for pod in pods(parts)]
    chosen = {
        "Service": lambda spec: spec["selector"],
        "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
        "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
    }
    for part in parts:
        if part["kind"] in chosen:
            wanted = chosen[part["kind"]](part["spec"]).items()
            assert any(wanted <= each for each in labels), part["metadata"]["name"]
    service = of_kind(parts, "Service", "team-rhocache")["metadata"]["labels"].items()
    monitor = of_kind(parts, "ServiceMonitor", "team-rhocache")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service


def test_only_the_service_and_ray_itself_reach_ray() -> None:
    policy = of_kind(render(LEAST), "NetworkPolicy", "team-rhocache-ray")["spec"]
    ray, service, metrics = policy["ingress"]
    assert "ports" not in ray
    (peer,) = ray["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "ray"
    assert [port["port"] for port in service["ports"]] == [8265]
    assert [port["port"] for port in metrics["ports"]] == [8080]


def test_the_alerts_are_those_of_prometheus() -> None:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert of_kind(render(MOST), "PrometheusRule", "team-rhocache")["spec"] == alerts


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "storage.allowRoots"),
        ({"storage": {"allowRoots": ["http://bucket"]}}, "/storage/allowRoots/0"),
        (LEAST | {"api": {"replicas": 0}}, "/api/replicas"),
        (LEAST | {"api": {"rootPath": "rhocache"}}, "/api/rootPath"),
        (LEAST | {"apis": {}}, "apis"),
        (LEAST | {"ingress": {"enabled": True}}, "api.allowHosts"),
        (LEAST | {"ray": {"workers": [{"name": "GPU", "resources": {"limits": {}}}]}},
         "/ray/workers/0/name"),
        (LEAST | {"api": {"settings": {"port": 1}}}, "port"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(HelmError, match=named):
        render(values)
