"""The environment as others set it."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.variables import CLIENT, SERVICE, tell_unknown
from rhocache_service.settings import Settings, unknown_secrets

from .conftest import COMMAND, free_port, wait_until

# As a kubelet sets them for a Service called rhocache, with two ports, and for rhocache-registry.
KUBERNETES = {
    "RHOCACHE_SERVICE_HOST": "10.96.0.7",
    "RHOCACHE_SERVICE_PORT": "8321",
    "RHOCACHE_SERVICE_PORT_HTTP": "8321",
    "RHOCACHE_SERVICE_PORT_METRICS_TLS": "9",
    "RHOCACHE_PORT": "tcp://10.96.0.7:8321",
    "RHOCACHE_PORT_8321_TCP": "tcp://10.96.0.7:8321",
    "RHOCACHE_PORT_8321_TCP_PROTO": "tcp",
    "RHOCACHE_PORT_8321_TCP_PORT": "8321",
    "RHOCACHE_PORT_8321_TCP_ADDR": "10.96.0.7",
    "RHOCACHE_PORT_53_UDP": "udp://10.96.0.7:53",
    "RHOCACHE_REGISTRY_SERVICE_HOST": "10.96.0.8",
    "RHOCACHE_REGISTRY_PORT": "tcp://10.96.0.8:5432",
    "RHOCACHE_REGISTRY_PORT_5432_TCP_ADDR": "10.96.0.8",
}
ELSEWHERE = {"RHOCACHE_URL": "http://rhocache:8321", "RHOCACHE_API_KEY": "rhk_secret"}


def test_every_process_knows_the_same_variables() -> None:
    assert [name.lower() for name in SERVICE] == list(Settings.model_fields)
    assert not CLIENT.keys() & set(SERVICE)


def test_a_kubernetes_service_of_our_name_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == Settings(port=8321)
    assert Settings.load(port=9000).port == 9000
    assert list(tell_unknown(KUBERNETES | ELSEWHERE)) == []


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_what_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    plain = Settings.load()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"RHOCACHE_{name.upper()}", blank)
    assert Settings.load() == plain
    monkeypatch.setenv("RHOCACHE_HOST", "localhost")
    assert Settings.load(host=blank).host == "localhost"


def test_blanks_around_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": " 9000\n", "RAY_TOKEN": "t0ken\n", "DATA_DIR": " /data "}.items():
        monkeypatch.setenv(f"RHOCACHE_{name}", value)
    settings = Settings.load()
    assert settings.ray_token is not None
    assert (settings.port, settings.data_dir) == (9000, Path("/data"))
    assert settings.ray_token.get_secret_value() == "t0ken"


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("/a,s3://b", ["/a", "s3://b"]),
        (" /a , , s3://b,", ["/a", "s3://b"]),
        ("/a b", ["/a b"]),
        ("/a\ns3://b\n", ["/a", "s3://b"]),
        ('["/a,1", "s3://b", " "]', ["/a,1", "s3://b"]),
        ("[]", None),
        (" , ", None),
        ("/[a]", ["/[a]"]),
    ],
)
def test_lists(monkeypatch: pytest.MonkeyPatch, value: str, items: list[str] | None) -> None:
    nothing = Settings.load().roots
    monkeypatch.setenv("RHOCACHE_ALLOW_ROOT", value)
    assert Settings.load().roots == (nothing if items is None else items)


def test_an_empty_flag_opens_no_folder() -> None:
    assert Settings.load(allow_root=["", "/a"]).roots == ["/a"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "RHOCACHE_PORT: Input should be a valid integer.* not 'http'"),
        ("PORT", "0", "RHOCACHE_PORT: Input should be greater than or equal to 1, not '0'"),
        ("WEDGED_SECONDS", "nan", "RHOCACHE_WEDGED_SECONDS: .* greater than 0, not 'nan'"),
        ("ALLOW_ROOT", "/a,http://b", "RHOCACHE_ALLOW_ROOT: 'http://b': scheme 'http' is not"),
        ("ALLOW_ROOT", '["/a"', r'RHOCACHE_ALLOW_ROOT: it should be a,b or JSON like \["a", "b"\]'),
        ("ALLOW_HOST", "https://rho.org/", "RHOCACHE_ALLOW_HOST: .* not 'https://rho.org/'"),
        ("TRUSTED_PROXY", "nginx", "RHOCACHE_TRUSTED_PROXY: .*like 10.0.0.0/8, not 'nginx'"),
        ("ROOT_PATH", "/v1", "RHOCACHE_ROOT_PATH: /v1 is a path of the service itself.*"),
        ("ROOT_PATH", "https://x/y", "RHOCACHE_ROOT_PATH: it should be a plain path, like"),
        ("RAY_ADDRESS", "ray://h:1", "RHOCACHE_RAY_ADDRESS: .*http://ray-head:8265.*'ray://h:1'"),
    ],
)
def test_a_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"RHOCACHE_{name}", value)
    with pytest.raises(InvalidInput, match=f"^{message}") as told:
        Settings.load()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_ADDRESS", "http://user:s3cret@ray:8265"),
        ("ALLOW_ROOT", "s3://key:s3cret@bucket"),
        ("DATABASE_URL", "mysql://user:s3cret@host/db"),
        ("DATABASE_URL", "postgresql://user:s3cret@host:s3cret/db"),
        ("ALLOW_ROOT", '["s3://key:s3cret@bucket"]'),
        ("ALLOW_HOST", "https://user:s3cret@host"),
    ],
)
def test_no_message_has_a_password(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RHOCACHE_{name}", value)
    with pytest.raises(InvalidInput, match=f"RHOCACHE_{name}") as told:
        Settings.load()
    assert "s3cret" not in str(told.value)


def test_what_is_mistyped_is_told_with_what_was_meant_but_not_its_value() -> None:
    typed = {"RHOCACHE_ALOW_ROOT": "/a", "RHOCACHE_DATABASE_URI": "postgresql://u:s3cret@h/d"}
    lines = list(tell_unknown(typed | {"RHOCACHE_QQ": "1", "OTHER": ""}))
    assert [line.partition(" ")[0] for line in lines] == [*typed, "RHOCACHE_QQ"]
    assert lines[0].endswith("is RHOCACHE_ALLOW_ROOT meant?")
    assert lines[1].endswith("is RHOCACHE_DATABASE_URL meant?")
    assert lines[2].endswith("there is no such variable")
    assert "s3cret" not in "".join(lines)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setattr("rhocache_service.settings.SECRET_FILES", folder)
    return folder


def test_secrets_are_files(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "rhocache_database_url").write_text("postgresql://u:file@h/d\n")
    (secrets / "rhocache_ray_token").write_text("t0ken\n")
    (secrets / "aws_credentials").write_text("[default]\n")  # another program's
    settings = Settings.load(port=9000)
    assert settings.ray_token is not None
    assert settings.ray_token.get_secret_value() == "t0ken"
    assert settings.registry_url.password == "file"
    assert unknown_secrets() == []
    monkeypatch.setenv("RHOCACHE_DATABASE_URL", "postgresql://u:variable@h/d")
    assert Settings.load().registry_url.password == "variable"
    assert Settings.load(database_url="postgresql://u:flag@h/d").registry_url.password == "flag"


def test_a_wrong_secret_is_named_and_not_told(secrets: Path) -> None:
    (secrets / "rhocache_database_ulr").write_text("s3cret")
    (line,) = unknown_secrets()
    assert line.startswith("rhocache_database_ulr changes nothing")
    assert line.endswith("is RHOCACHE_DATABASE_URL meant?")
    (secrets / "rhocache_database_url").write_text("mysql://u:s3cret@h/d")
    with pytest.raises(InvalidInput, match="RHOCACHE_DATABASE_URL") as told:
        Settings.load()
    assert "s3cret" not in f"{line}{told.value}"


def test_serve_starts_where_others_set_its_variables_and_tells_of_a_typo_once(
    tmp_path: Path,
) -> None:
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path / "log"
    mine = {
        "RHOCACHE_DATABASE_URL": "",
        "RHOCACHE_DATA_DIR": str(tmp_path / "data"),
        "RHOCACHE_RAY_ADDRESS": "http://127.0.0.1:9",
        "RHOCACHE_PROT": "9",
    }
    flag = f"--port={url.rpartition(':')[2]}"
    with log.open("w") as told:
        service = subprocess.Popen(
            [COMMAND, "serve", flag], env=os.environ | KUBERNETES | mine, stdout=told, stderr=told
        )
    try:
        wait_until(lambda: service.poll() is not None or _lives(url), log)
        assert [httpx.get(f"{url}/v1/jobs").status_code for _ in range(3)] == [200] * 3
        service.send_signal(signal.SIGTERM)
        assert service.wait() == -signal.SIGTERM
    finally:
        service.kill()
    assert log.read_text().count("RHOCACHE_PROT changes nothing") == 1
    assert log.read_text().count("changes nothing") == 1


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").is_success
    except httpx.TransportError:
        return False
