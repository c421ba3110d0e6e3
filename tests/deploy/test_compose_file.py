"""docker-compose.yml, as far as it can be looked at without containers."""

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rhocache_service.settings import Settings

from ..system.test_house import check_command

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSED: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def test_commands_and_variables_are_the_codes() -> None:
    for service in SERVICES.values():
        command = service.get("command", "")
        if isinstance(command, str) and command.startswith("rhocache"):
            check_command(command)
    names = {name for name in SERVICES["api"]["environment"] if name.startswith("RHOCACHE_")}
    assert {name.removeprefix("RHOCACHE_").lower() for name in names} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", OURS)
def test_what_is_built_here_may_as_little_as_can_be(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    stages = re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
    assert service["build"]["target"] in stages
    assert "ports" not in service or name == "api"
    assert "privileged" not in service


def test_a_worker_is_drained_before_it_is_killed() -> None:
    for name in ("ray-worker", "ray-worker-gpu"):
        drained = int(SERVICES[name]["environment"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert SERVICES[name]["stop_grace_period"] == "2m"
        assert 0 < drained < 120
        # Not through a shell, which would keep SIGTERM to itself.
        assert SERVICES[name]["command"].startswith("ray start --block ")


def test_the_trainer_reaches_the_storage_alone() -> None:
    trainer = SERVICES["trainer"]
    beside = [name for name, each in SERVICES.items()
              if set(each["networks"]) & set(trainer["networks"])]  # fmt: skip
    assert sorted(beside) == ["s3", "trainer"]
    assert not [volume for volume in trainer["volumes"] if volume.startswith("references")]
    assert trainer["secrets"] == ["aws_credentials_trainer"]


def test_only_the_pages_are_shown_and_on_loopback() -> None:
    shown = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(shown) == {"api", "grafana"}
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for (port,) in shown.values())
    inside = {
        name for name, network in COMPOSED["networks"].items() if network == {"internal": True}
    }
    assert inside == {"database", "storage", "training", "monitoring"}


def test_the_example_names_every_choice() -> None:
    choices = set(re.findall(r"\$\{(\w+)", TEXT))
    lines = re.findall(r"^#(\w+)=(\S+)", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == choices
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
    assert dict(lines) == defaults


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    make = ROOT / "deploy" / "make_secrets.py"
    (tmp_path / "deploy").mkdir()
    copy = tmp_path / "deploy" / make.name
    copy.write_text(make.read_text())

    def run() -> str:
        done = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=True)
        return done.stdout

    told = run()
    folder = tmp_path / "deploy" / "secrets"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    wanted = {Path(each["file"]).name for each in COMPOSED["secrets"].values()}
    assert wanted <= made.keys()
    used = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert used == COMPOSED["secrets"].keys()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert made["postgres_password"] in made["rhocache_database_url"]
    assert not [value for value in made.values() if value in told]
    (folder / "grafana_password").unlink()
    assert run().count("made ") == 1
    kept = {path.name: path.read_text() for path in folder.iterdir()}
    assert kept.pop("grafana_password") != made.pop("grafana_password")
    assert kept == made
