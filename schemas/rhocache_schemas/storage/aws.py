"""Where S3 is: what AWS's SDKs take from variables and from the profile in the shared files.

pyarrow looks up nothing but credentials there, and without an endpoint it asks AWS itself. The
order is that of the SDKs' reference, https://docs.aws.amazon.com/sdkref/latest/guide, under
"Service-specific endpoints", "AWS Region" and "Shared config and credentials files".
"""

import os
import shlex
from configparser import Error, RawConfigParser
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rhocache_schemas.errors import InvalidInput

Section = dict[str, str]


@dataclass(frozen=True, slots=True)
class S3Settings:
    endpoint: str | None  # None: AWS
    region: str | None
    ca_bundle: str | None  # file of certificates; None: the system's
    virtual_hosts: bool  # the bucket in the host's name, not in the path
    has_keys: bool  # without asking anybody


def s3_settings() -> S3Settings:
    """Look up how to reach S3.

    Raises InvalidInput for a profile that there is not, a shared file that can't be read, and an
    endpoint that is no URL.
    """
    profile, service = _profile()
    ignored = _variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or profile.get(
        "ignore_configured_endpoint_urls", ""
    )
    endpoint = None
    if ignored.lower() != "true":
        endpoint = (
            _variable("AWS_ENDPOINT_URL_S3")
            or _variable("AWS_ENDPOINT_URL")
            or service.get("endpoint_url")
            or profile.get("endpoint_url")
        )
    bundle = _variable("AWS_CA_BUNDLE") or profile.get("ca_bundle")
    if bundle and not Path(bundle := os.path.expanduser(bundle)).is_file():  # noqa: PTH111
        raise InvalidInput(f"AWS_CA_BUNDLE: there is no file {bundle!r}")
    return S3Settings(
        endpoint=_checked(endpoint) if endpoint else None,
        region=_variable("AWS_REGION")
        or _variable("AWS_DEFAULT_REGION")
        or profile.get("region")
        or None,
        ca_bundle=bundle or None,
        virtual_hosts=_nested(profile.get("s3", "")).get("addressing_style") == "virtual",
        has_keys=bool(_variable("AWS_ACCESS_KEY_ID") or profile.get("aws_access_key_id")),
    )


def _variable(name: str) -> str:
    """Its value, or nothing: one that is set to nothing counts as not set."""
    return os.environ.get(name, "").strip()


def _checked(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole or "@" in endpoint:
        shown = endpoint.rpartition("@")[2]
        raise InvalidInput(
            f"the S3 endpoint {shown!r} (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or endpoint_url) is "
            "no URL of the form http://HOST:PORT or https://HOST, without credentials"
        )
    return endpoint


def _profile() -> tuple[Section, Section]:
    """Return the settings of the chosen profile, and those of its ``services`` for S3."""
    config = _read("AWS_CONFIG_FILE", "~/.aws/config")
    credentials = _read("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    asked = _variable("AWS_PROFILE") or _variable("AWS_DEFAULT_PROFILE")
    name = asked or "default"
    found = [config.get(("profile", name)), credentials.get((name,))]
    if name == "default":
        found.insert(0, config.get(("default",)))
    if asked not in ("", "default") and not any(section is not None for section in found):
        raise InvalidInput(
            f"AWS_PROFILE: there is no profile {name!r} in AWS's config or credentials file"
        )
    profile: Section = {}
    for section in found:
        profile |= section or {}
    services = config.get(("services", profile.get("services", "")), {})
    return profile, _nested(services.get("s3", ""))


def _read(variable: str, usual: str) -> dict[tuple[str, ...], Section]:
    """Sections of a shared file by the words of their names; none where there is no file."""
    path = Path(os.path.expanduser(_variable(variable) or usual))  # noqa: PTH111 (may have no home)
    if not path.is_file():
        return {}
    parser = RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        return {tuple(shlex.split(name)): dict(parser[name]) for name in parser.sections()}
    except (OSError, Error, ValueError) as error:
        cause = " ".join(str(error).split())
        raise InvalidInput(f"cannot read AWS's {path}: {cause}") from error


def _nested(value: str) -> Section:
    """Settings in a setting, one an indented line."""
    pairs = [line.partition("=") for line in value.splitlines() if "=" in line]
    return {name.strip(): text.strip() for name, _, text in pairs}
