"""The addresses of the service: its host names (as Host, Origin and ``--allow-host`` have them),
and the root path that a proxy shows it under."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]/?#@\\,]+)(?::(\d{1,5}))?", re.IGNORECASE)
_NAME = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*")
# Asked for by a kubelet and Prometheus: every few seconds, and by a pod's address.
PROBES = ("/livez", "/readyz", "/metrics")
PORTS = {"http": "80", "https": "443"}  # that need not be named

# First parts of the service's own paths: a root path like one of them could not be told from it.
_OWN = frozenset(
    {
        "v1", "livez", "readyz", "metrics", "openapi.json", "static",
        "jobs", "caches", "runs", "run", "submit", "docs", "problems", "sign-in", "sign-out",
        "favicon.ico",
    }
)  # fmt: skip
_NOT_PLAIN = frozenset("?#%\\\"'<>{} \t\r\n")


def parse_host(host: str) -> tuple[str, str | None]:
    """Split a Host header into its name and port: ``[::1]:80`` is ``::1`` and ``80``.

    What is no Host header has no name: ``""``.
    """
    match = _HOST.fullmatch(host)
    return ("", None) if match is None else (_plain(match[1]), match[2])


def check_host_pattern(pattern: str) -> str:
    """Return the pattern. Raises ValueError where no Host header could match it."""
    name, _ = _parse_pattern(pattern)
    if pattern != "*" and not (":" in name or _NAME.fullmatch(name)):
        raise ValueError(
            "it should be a host name like rhocache.example.org, with a port where only that one "
            "is meant, *.example.org for every name under it, or * for any"
        )
    return pattern


def host_matches(host: str, pattern: str) -> bool:
    """Whether a Host header is one of a pattern's: NAME, NAME:PORT, *.NAME (not NAME) or *."""
    name, port = parse_host(host)
    if pattern == "*":
        return name != ""
    wanted, only = _parse_pattern(pattern)
    if only not in (None, port) and not (port is None and only in PORTS.values()):
        return False
    return name.endswith(wanted[1:]) if wanted.startswith("*.") else name == wanted


def is_same_page(origin: str, host: str) -> bool:
    """Whether an Origin and a Host header are of the same page."""
    name, port = parse_host(host)
    return bool(name) and (name, port or _default_port(origin)) == _parse_origin(origin)


def is_named_page(pattern: str, origin: str, host: str) -> bool:
    """Whether a pattern says that an Origin is the service's, whatever name a proxy put into Host.

    A name without a port stands for the default one, and only where the Host has another name:
    what listens at other ports of the service's own machine is not the service.
    """
    wanted, only = _parse_pattern(pattern)
    if "*" in wanted or wanted in LOOPBACK:
        return False
    if only is None and parse_host(host)[0] == wanted:
        return False
    return (wanted, only or _default_port(origin)) == _parse_origin(origin)


def _parse_origin(origin: str) -> tuple[str, str | None]:
    name, port = parse_host(urlsplit(origin).netloc)
    return name, port or _default_port(origin)


def _default_port(origin: str) -> str | None:
    return PORTS.get(urlsplit(origin).scheme)


def _parse_pattern(pattern: str) -> tuple[str, str | None]:
    try:
        return str(ip_address(pattern)), None  # an IPv6 address may come without its brackets
    except ValueError:
        return parse_host(pattern)


def _plain(name: str) -> str:
    """One spelling of a name or address."""
    name = name.strip("[]").lower().removesuffix(".")
    try:
        return str(ip_address(name))
    except ValueError:
        return name


def root_path(request: Request) -> str:
    """Return a request's root path, also once the router has put the path of a mount there."""
    return request.scope.get("app_root_path", request.scope["root_path"])


def path_inside(request: Request) -> str:
    """Return a request's path as the routes have it, without the root path."""
    return request.scope["path"].removeprefix(root_path(request))


def check_root_path(path: str) -> str:
    """Spell ``rhocache/`` as ``/rhocache``, and ``/`` as nothing.

    Raises ValueError for what is no path, or is one of the service's own.
    """
    parts = path.strip("/").split("/")
    if parts == [""]:
        return ""
    if parts[0] in _OWN:
        raise ValueError(f"/{parts[0]} is a path of the service itself; take another")
    for part in parts:
        if part in ("", ".", "..") or not part.isascii() or _NOT_PLAIN & set(part):
            raise ValueError("it should be a plain path, like /rhocache")
    return "/" + "/".join(parts)
