"""What ``rhocache serve`` can be told, by flags or by ``RHOCACHE_...`` variables."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.locations import absolute_location

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


Names = Annotated[list[str], NoDecode, BeforeValidator(_split)]  # in the environment: a,b


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RHOCACHE_", extra="forbid", frozen=True)

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 8321
    data_dir: Annotated[
        Path, Field(description="folder of the registry and, in embedded mode, of Ray")
    ] = Path("rhocache-data")
    database_url: Annotated[
        str | None, Field(description="registry; null: SQLite in the data dir")
    ] = None
    ray_address: Annotated[
        str | None,
        Field(description="HTTP address of a Ray cluster's dashboard; null: a Ray of our own"),
    ] = None
    allow_root: Annotated[
        Names, Field(description="places that jobs may name; none: data dir and working folder")
    ] = []
    allow_host: Annotated[Names, Field(description="more Host headers to answer to")] = []
    insecure: Annotated[
        bool, Field(description="listen on other than loopback, with no authentication")
    ] = False
    max_running_jobs: Annotated[int, Field(ge=1, description="jobs that run at once")] = 1

    @property
    def roots(self) -> list[str]:
        """Spelled out: drivers check them again, in working folders of their own."""
        given = self.allow_root or [str(self.data_dir), "."]
        return [absolute_location(root) for root in given]

    @property
    def registry_url(self) -> str:
        url = self.database_url or f"sqlite:///{self.data_dir.absolute() / 'registry.sqlite'}"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    def check(self) -> None:
        """Raise InvalidInput where the settings would open the service to a network."""
        if self.host not in LOOPBACK and not self.insecure:
            raise InvalidInput(
                f"host {self.host} is not loopback, and there is no authentication yet: anyone who "
                "reaches it could run jobs. Add --insecure only inside a private network"
            )
