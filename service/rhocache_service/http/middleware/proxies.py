"""Takes a request's client, scheme, host and path prefix from the headers of trusted proxies."""

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rhocache_service.http.addresses import PORTS, check_root_path, parse_host


class Proxies:
    """Puts into the scope what a request was before it came through proxies.

    Takes client, scheme, host and root path from a trusted proxy's X-Forwarded-For, -Proto, -Host,
    -Port and -Prefix. Anyone else's are ignored: a page could send them under a name of its own.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str], root_path: str) -> None:
        self._app = app
        self._root_path = root_path
        hosts = "*" if "*" in trusted else list(trusted)
        self._client_and_scheme = ProxyHeadersMiddleware(_go_on, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = self._root_path
        address, port = scope["client"] or ("", 0)
        scope["client"] = (_unmapped(address), port)
        if scope["client"][0] in self._client_and_scheme.trusted_hosts:
            await self._client_and_scheme(scope, receive, send)  # pyright: ignore
            root = _take_host_and_prefix(scope) or root
        # A proxy may have taken the root path off, or not.
        path: str = scope["path"]
        if root and not path.startswith(f"{root}/"):
            path = f"{root}/" if path == root else root + path
        scope["root_path"], scope["path"] = root, path
        await self._app(scope, receive, send)


async def _go_on(*_: object) -> None:
    """Stand for the application: the library's middleware has changed the scope by then."""


def _take_host_and_prefix(scope: Scope) -> str:
    """Put the Host into the scope that the nearest proxy was asked for; return the root path.

    In a list only what is behind the last comma is the nearest proxy's own word.
    """
    headers = Headers(scope=scope)
    host, port, prefix = (
        headers.get(f"x-forwarded-{name}", "").rpartition(",")[2].strip()
        for name in ("host", "port", "prefix")
    )
    if host:
        if parse_host(host)[1] is None and port.isdecimal() and port != PORTS[scope["scheme"]]:
            host = f"{host}:{port}"
        others = [each for each in scope["headers"] if each[0] != b"host"]
        scope["headers"] = [(b"host", host.encode("latin-1")), *others]
    try:
        return check_root_path(prefix)
    except ValueError:
        return ""


def _unmapped(address: str) -> str:
    """An IPv4 address as itself, where the service listens on IPv6 for both."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str((isinstance(parsed, IPv6Address) and parsed.ipv4_mapped) or parsed)
