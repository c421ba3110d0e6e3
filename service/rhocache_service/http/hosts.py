"""Names under which the service answers, as Host, Origin and ``--allow-host`` have them."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]/?#@\\,]+)(?::(\d{1,5}))?", re.IGNORECASE)
_NAME = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*")
PORTS = {"http": "80", "https": "443"}  # that need not be named


def parse(host: str) -> tuple[str, str | None]:
    """Split a Host header into its name and port: ``[::1]:80`` is ``::1`` and ``80``.

    What is no Host header has no name: ``""``.
    """
    match = _HOST.fullmatch(host)
    return ("", None) if match is None else (_plain(match[1]), match[2])


def check(pattern: str) -> str:
    """Give the pattern back. Raises ValueError where no Host header could match it."""
    name, _ = _parse_pattern(pattern)
    if pattern != "*" and not (":" in name or _NAME.fullmatch(name)):
        raise ValueError(
            "it should be a host name like rhocache.example.org, with a port where only that one "
            "is meant, *.example.org for every name under it, or * for any"
        )
    return pattern


def matches(host: str, pattern: str) -> bool:
    """Whether a Host header is one of a pattern's: NAME, NAME:PORT, *.NAME (not NAME) or *."""
    name, port = parse(host)
    if pattern == "*":
        return name != ""
    wanted, only = _parse_pattern(pattern)
    if only not in (None, port) and not (port is None and only in PORTS.values()):
        return False
    return name.endswith(wanted[1:]) if wanted.startswith("*.") else name == wanted


def same(origin: str, host: str) -> bool:
    """Whether an Origin and a Host header are of the same page."""
    name, port = parse(host)
    return bool(name) and (name, port or _default_port(origin)) == _parse_origin(origin)


def names(pattern: str, origin: str, host: str) -> bool:
    """Whether a pattern says that an Origin is the service's, whatever name a proxy put into Host.

    A name without a port stands for the default one, and only where the Host has another name:
    what listens at other ports of the service's own machine is not the service.
    """
    wanted, only = _parse_pattern(pattern)
    if "*" in wanted or wanted in LOOPBACK:
        return False
    if only is None and parse(host)[0] == wanted:
        return False
    return (wanted, only or _default_port(origin)) == _parse_origin(origin)


def _parse_origin(origin: str) -> tuple[str, str | None]:
    name, port = parse(urlsplit(origin).netloc)
    return name, port or _default_port(origin)


def _default_port(origin: str) -> str | None:
    return PORTS.get(urlsplit(origin).scheme)


def _parse_pattern(pattern: str) -> tuple[str, str | None]:
    try:
        return str(ip_address(pattern)), None  # an IPv6 address may come without its brackets
    except ValueError:
        return parse(pattern)


def _plain(name: str) -> str:
    """One spelling of a name or address."""
    name = name.strip("[]").lower().removesuffix(".")
    try:
        return str(ip_address(name))
    except ValueError:
        return name
