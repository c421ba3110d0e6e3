"""What ``rhocache serve`` can be told, by flags or by ``RHOCACHE_...`` variables."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.locations import absolute_location
from rhocache_service.database import parse_url

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _absolute(value: object) -> object:
    """A Path was made by a program, in which ``~`` is a letter as others are."""
    return storage.local_path(value) if isinstance(value, str) else value


def _without_brackets(value: object) -> object:
    """An IPv6 address as it is in a URL is one too."""
    return value.removeprefix("[").removesuffix("]") if isinstance(value, str) else value


Names = Annotated[list[str], NoDecode, BeforeValidator(_split)]  # in the environment: a,b


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RHOCACHE_", extra="forbid", frozen=True)

    host: Annotated[
        str, BeforeValidator(_without_brackets), Field(description="address to listen on")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 8321
    data_dir: Annotated[
        Path,
        BeforeValidator(_absolute),
        Field(description="folder of the registry and, in embedded mode, of Ray"),
    ] = Path("rhocache-data")
    database_url: Annotated[
        str | None, Field(description="registry; null: SQLite in the data dir")
    ] = None
    ray_address: Annotated[
        str | None,
        Field(description="HTTP address of a Ray cluster's dashboard; null: a Ray of our own"),
    ] = None
    ray_token: Annotated[
        SecretStr | None, Field(description="what that cluster asks for, where it has tokens")
    ] = None
    allow_root: Annotated[
        Names, Field(description="places that jobs may name; none: data dir and working folder")
    ] = []
    allow_host: Annotated[Names, Field(description="more Host headers to answer to")] = []
    max_running_jobs: Annotated[int, Field(ge=1, description="jobs that run at once")] = 1
    max_waiting_jobs: Annotated[
        int, Field(ge=1, description="jobs of one API key that may wait for their turn")
    ] = 1000
    submits_per_minute: Annotated[
        int, Field(ge=1, description="jobs that one API key may submit in a minute")
    ] = 300
    max_body_bytes: Annotated[int, Field(ge=1024, description="bytes of a request's body")] = (
        1 << 20
    )
    wedged_seconds: Annotated[
        float, Field(gt=0, description="without progress of a running job, until /readyz fails")
    ] = 900.0

    @property
    def roots(self) -> list[str]:
        """Spelled out: drivers check them again, in working folders of their own."""
        given = self.allow_root or [str(self.data_dir), "."]
        return [absolute_location(root) for root in given]

    @property
    def registry_file(self) -> Path:
        """The registry's, where it is SQLite's."""
        return self.data_dir.absolute() / "registry.sqlite"

    @property
    def registry_url(self) -> URL:
        """Raises InvalidInput for a URL of another kind of database."""
        if self.database_url is not None:
            return parse_url(self.database_url)
        return URL.create("sqlite", database=str(self.registry_file))  # whose name may have a "?"

    def check(self, *, has_keys: bool) -> None:
        """Raise InvalidInput where the settings would open the service or Ray to a network."""
        ray = urlsplit(self.ray_address or "").hostname
        if ray and ray not in LOOPBACK and self.ray_token is None:
            raise InvalidInput(
                f"the Ray at {self.ray_address} is not on this machine, and no token is given: "
                "whoever reaches such a Ray runs code there. Start it with RAY_AUTH_MODE=token, "
                "and give the token as RHOCACHE_RAY_TOKEN"
            )
        if self.host not in LOOPBACK and not has_keys:
            raise InvalidInput(
                f"host {self.host} is not loopback, and there is no API key yet: whoever reaches "
                "it could run jobs. Make one first, with rhocache keys create"
            )
