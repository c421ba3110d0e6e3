from pathlib import Path

import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_service.settings import Settings


def test_roots_are_the_data_dir_and_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("data")).roots == [f"{tmp_path}/data", str(tmp_path)]


def test_roots_are_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(allow_root=["sub", "/srv", "s3://bucket/team"])
    assert settings.roots == [f"{tmp_path}/sub", "/srv", "s3://bucket/team"]


def test_the_environment_sets_what_flags_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOCACHE_PORT", "9000")
    monkeypatch.setenv("RHOCACHE_ALLOW_ROOT", "/srv/a,s3://bucket")
    settings = Settings()
    assert (settings.port, settings.roots) == (9000, ["/srv/a", "s3://bucket"])
    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        (None, "sqlite:////data/registry.sqlite"),
        ("postgresql://u@h/db", "postgresql+psycopg://u@h/db"),
        ("postgresql+psycopg://u@h/db", "postgresql+psycopg://u@h/db"),
    ],
)
def test_where_the_registry_is(url: str | None, opened: str) -> None:
    assert Settings(data_dir=Path("/data"), database_url=url).registry_url == opened


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_a_network_is_listened_to_only_on_demand(host: str) -> None:
    with pytest.raises(InvalidInput, match=f"host {host} is not loopback.*rhocache keys create"):
        Settings(host=host).check(has_keys=False)
    Settings(host=host).check(has_keys=True)
    Settings().check(has_keys=False)
