from pathlib import Path

import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_service.registry.tables import parse_url, shown
from rhocache_service.settings import Settings
from rhocache_service.settings_document import made


def test_roots_are_the_data_dir_and_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("data")).roots == [f"{tmp_path}/data", str(tmp_path)]


def test_the_committed_page_is_the_settings() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == made(), "write it anew: make settings"


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
        ("postgres://u@h/db?sslmode=require", "postgresql+psycopg://u@h/db?sslmode=require"),
        ("postgresql+psycopg2://u@[::1]:1/db", "postgresql+psycopg://u@[::1]:1/db"),
        ("postgres:///db?host=/run/pg", "postgresql+psycopg:///db?host=%2Frun%2Fpg"),
        ("sqlite:////a/b.sqlite", "sqlite:////a/b.sqlite"),
    ],
)
def test_where_the_registry_is(url: str | None, opened: str) -> None:
    assert str(Settings(data_dir=Path("/data"), database_url=url).registry_url) == opened


def test_a_password_is_taken_as_it_is_encoded() -> None:
    url = Settings(database_url="postgres://u%40x:p%40%25%2F%3A@h/db").registry_url
    assert (url.username, url.password, url.host) == ("u@x", "p@%/:", "h")


@pytest.mark.parametrize(
    "url",
    ["postgres://u:secret@h:no/db", "postgres://u:secret@h:5:6/db", "mysql://u:secret@h/db",
     "secret", "postgres:/u:secret@h"],
)  # fmt: skip
def test_what_is_no_database_is_refused_and_not_told(url: str) -> None:
    with pytest.raises(InvalidInput, match="database URL") as caught:
        Settings.load(database_url=url)
    assert "secret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    url = parse_url("postgres://u:secret@h/db?sslpassword=secret&password=secret")
    assert "secret" not in shown(url)


def test_a_tilde_is_home_in_what_a_user_writes_and_a_letter_in_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RHOCACHE_DATA_DIR", "~/data")
    assert Settings().registry_file == tmp_path / "data" / "registry.sqlite"
    assert Settings(data_dir=Path("~")).registry_file == tmp_path / "~" / "registry.sqlite"
    assert Settings(allow_root=["~/in"]).roots == [f"{tmp_path}/in"]
    with pytest.raises(InvalidInput, match="no home folder '~nobody-here'"):
        Settings.load(allow_root=["~nobody-here/x"])


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_a_network_is_listened_to_only_on_demand(host: str) -> None:
    with pytest.raises(InvalidInput, match=f"host {host} is not loopback.*rhocache keys create"):
        Settings(host=host).check(has_keys=False)
    Settings(host=host).check(has_keys=True)
    Settings().check(has_keys=False)
