"""What ``rhocache serve`` can be told by flags, ``RHOCACHE_...`` variables and secret files."""

from base64 import b64decode
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import URL

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.paths import absolute_location
from rhocache_schemas.variables import PREFIX, tell_unknown
from rhocache_service.http.addresses import LOOPBACK, check_host_pattern, check_root_path
from rhocache_service.registry.tables import parse_url
from rhocache_service.variables import split_list, without_foreign

# Where compose, Swarm and podman lay secrets, each a file: rhocache_database_url, ...
SECRET_FILES = Path("/run/secrets")
_SECRET = {"database_url", "ray_token", "webhook_secret"}  # settings whose values no message shows


def _network(value: str) -> str:
    try:
        return value if value == "*" else str(ip_network(value, strict=False))
    except ValueError:
        raise ValueError("it should be an address or a network, like 10.0.0.0/8") from None


def _http(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("it should be like http://ray-head:8265, without a user or password")
    return value


def _without_brackets(value: object) -> object:
    """An IPv6 address as it is in a URL is one too."""
    return value.removeprefix("[").removesuffix("]") if isinstance(value, str) else value


def _absolute(value: object) -> object:
    """A Path was made by a program, in which ``~`` is a letter as others are."""
    return storage.local_path(value) if isinstance(value, str) else value


def _database(value: str) -> str:
    parse_url(value)
    return value


def _signing_secret(value: SecretStr) -> SecretStr:
    prefix, _, encoded = value.get_secret_value().partition("_")
    try:
        length = len(b64decode(encoded, validate=True))
    except ValueError:
        length = 0
    if prefix != "whsec" or not 24 <= length <= 64:
        raise ValueError(
            "it should be whsec_ and the base64 of 24 to 64 random bytes, "
            "as of echo whsec_$(openssl rand -base64 32)"
        )
    return value


def _refused(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let pydantic know what is wrong, so that the variable is named."""

    def checked(value: Any) -> Any:
        try:
            return check(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    return checked


# In the environment: a,b or ["a", "b"].
Roots = Annotated[
    list[Annotated[str, AfterValidator(_refused(absolute_location))]],
    NoDecode,
    BeforeValidator(split_list),
]
Hosts = Annotated[
    list[Annotated[str, AfterValidator(check_host_pattern)]], NoDecode, BeforeValidator(split_list)
]
Networks = Annotated[
    list[Annotated[str, AfterValidator(_network)]], NoDecode, BeforeValidator(split_list)
]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: Annotated[
        str, BeforeValidator(_without_brackets), Field(description="address to listen on")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 8321
    metrics_port: Annotated[
        int | None,
        Field(ge=1, le=65535, description="port for /metrics alone, which asks for no key there"),
    ] = None
    data_dir: Annotated[
        Path,
        BeforeValidator(_refused(_absolute)),
        Field(description="folder of the registry and, in embedded mode, of Ray"),
    ] = Path("rhocache-data")
    database_url: Annotated[
        Annotated[str, AfterValidator(_refused(_database))] | None,
        Field(description="registry; none: SQLite in the data dir"),
    ] = None
    ray_address: Annotated[
        Annotated[str, AfterValidator(_http)] | None,
        Field(description="HTTP address of a Ray cluster's dashboard; none: a Ray of its own"),
    ] = None
    ray_token: Annotated[
        SecretStr | None, Field(description="what that cluster asks for, where it has tokens")
    ] = None
    allow_root: Annotated[
        Roots, Field(description="places that jobs may name; none: data dir and working folder")
    ] = []
    code_root: Annotated[
        Roots,
        Field(
            description="places that jobs may load programs from, as classifiers of classify jobs: "
            "who writes there runs code; none: nowhere"
        ),
    ] = []
    allow_host: Annotated[
        Hosts, Field(description="more Host headers to answer to: NAME, NAME:PORT, *.NAME or *")
    ] = []
    trusted_proxy: Annotated[
        Networks, Field(description="addresses and networks whose X-Forwarded-* are believed, or *")
    ] = []
    root_path: Annotated[
        Annotated[str, AfterValidator(check_root_path)],
        Field(description="path that a proxy shows the service under"),
    ] = ""
    webhook_host: Annotated[
        Hosts, Field(description="hosts that webhooks may go to: NAME, NAME:PORT, *.NAME or *")
    ] = []
    webhook_secret: Annotated[
        Annotated[SecretStr, AfterValidator(_signing_secret)] | None,
        Field(description="what webhooks are signed with: whsec_BASE64"),
    ] = None
    max_running_jobs: Annotated[int, Field(ge=1, description="jobs that run at once")] = 1
    max_running_jobs_of_key: Annotated[
        int | None, Field(ge=1, description="of them, those of one API key; none: as many")
    ] = None
    max_waiting_jobs: Annotated[
        int, Field(ge=1, description="jobs of one API key that may wait for their turn")
    ] = 1000
    submits_per_minute: Annotated[
        int, Field(ge=1, description="jobs that one API key may submit in a minute")
    ] = 300
    max_body_bytes: Annotated[
        int,
        Field(ge=1024, le=64 << 20, description="bytes of a request's body, so of a job's spec"),
    ] = 1 << 20
    cache_retention_days: Annotated[
        float | None,
        Field(gt=0, le=36500, description="from a cache's commit until it is deleted; none: never"),
    ] = None
    wedged_seconds: Annotated[
        float, Field(gt=0, description="without progress of a running job, until /readyz fails")
    ] = 900.0

    @model_validator(mode="before")
    @classmethod
    def _drop_foreign(cls, given: dict[str, Any]) -> dict[str, Any]:
        return without_foreign(given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic's to give)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        if not SECRET_FILES.is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, SECRET_FILES)

    @classmethod
    def load(cls, **flags: Any) -> "Settings":
        """Take what is set by flags, then by the environment, then by secret files.

        Raises InvalidInput naming the flag or variable of each wrong value, and the value, unless
        that may hold a secret; and StorageError for a secret file that can't be read.
        """
        flags = without_foreign(flags)
        try:
            return cls(**flags)
        except OSError as error:
            raise storage.failure(f"cannot read the secret {error.filename}", error) from error
        except ValidationError as error:
            told = (_describe(fault, flags) for fault in error.errors(include_url=False))
            raise InvalidInput("; ".join(told)) from None  # whose message has every value

    @property
    def roots(self) -> list[str]:
        """Spelled out: drivers check them again, in working folders of their own."""
        return self.allow_root or [str(self.data_dir.absolute()), str(Path.cwd())]

    @property
    def registry_file(self) -> Path:
        """The registry's, where it is SQLite's."""
        return self.data_dir.absolute() / "registry.sqlite"

    @property
    def registry_url(self) -> URL:
        if self.database_url is not None:
            return parse_url(self.database_url)
        return URL.create("sqlite", database=str(self.registry_file))  # whose name may have a "?"

    def check(self, *, has_keys: bool) -> None:
        """Raise InvalidInput where the settings would open the service or Ray to a network, or have
        webhooks sent that nobody could trust."""
        ray = urlsplit(self.ray_address or "").hostname
        if ray and ray not in LOOPBACK and self.ray_token is None:
            raise InvalidInput(
                f"the Ray at {self.ray_address} is not on this machine, and no token is given: "
                "whoever reaches such a Ray runs code there. Start it with RAY_AUTH_MODE=token, "
                "and give the token as RHOCACHE_RAY_TOKEN"
            )
        if self.webhook_host and self.webhook_secret is None:
            raise InvalidInput(
                "RHOCACHE_WEBHOOK_HOST allows webhooks, and RHOCACHE_WEBHOOK_SECRET has nothing to "
                "sign them with: set it to $(echo whsec_$(openssl rand -base64 32))"
            )
        if self.host not in LOOPBACK and not has_keys:
            raise InvalidInput(
                f"host {self.host} is not loopback, and there is no API key yet: whoever reaches "
                "it could run jobs. Make one first, with rhocache keys create NAME --scope admin"
            )


def unknown_secrets() -> list[str]:
    """A line for each secret file that looks like a setting's and is none."""
    return list(tell_unknown({path.name: "" for path in SECRET_FILES.glob("*")}))


def _describe(fault: Any, flags: dict[str, Any]) -> str:
    name = str(fault["loc"][0])
    told = f"--{name.replace('_', '-')}" if name in flags else f"{PREFIX}{name.upper()}"
    told += f": {fault['msg'].removeprefix('Value error, ')}"
    value = repr(fault["input"])  # without passwords once the error is told
    return told if name in _SECRET or value in told else f"{told}, not {value}"
