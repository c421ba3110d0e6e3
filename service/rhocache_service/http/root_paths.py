"""The path that a proxy shows the service under."""

from starlette.requests import Request

# First parts of the service's own paths: a root path like one of them could not be told from it.
_OWN = frozenset(
    {
        "v1", "livez", "readyz", "metrics", "openapi.json", "static",
        "jobs", "caches", "submit", "docs", "problems", "sign-in", "sign-out",
    }
)  # fmt: skip
_NOT_PLAIN = frozenset("?#%\\\"'<>{} \t\r\n")


def normalise(path: str) -> str:
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


def root(request: Request) -> str:
    """A request's root path, also once the router has put the path of a mount there."""
    return request.scope.get("app_root_path", request.scope["root_path"])


def inside(request: Request) -> str:
    """A request's path as the routes have it, without the root path."""
    return request.scope["path"].removeprefix(root(request))
