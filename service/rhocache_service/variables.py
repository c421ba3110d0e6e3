"""Reads environment variables as compose, Helm and Kubernetes set them; warns of unknown ones."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, cast

PREFIX = "RHOCACHE_"
_OTHERS = ("URL", "API_KEY")  # read by the client

# What Kubernetes tells every container of a Service called rhocache or rhocache-anything:
# RHOCACHE_SERVICE_HOST, RHOCACHE_PORT=tcp://10.0.0.1:8321, RHOCACHE_PORT_8321_TCP_ADDR, ...
_SERVICE = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")


def without_foreign(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out settings that are set to nothing, and a port that is a Kubernetes Service's."""
    stripped = {
        name: value.strip() if isinstance(value, str) else value for name, value in given.items()
    }
    port = stripped.get("port")
    if isinstance(port, str) and _SERVICE_PORT.match(port):
        del stripped["port"]
    return {name: value for name, value in stripped.items() if value != ""}


def split_list(value: object) -> object:
    """Return the items of ``a,b`` or ``["a", "b"]`` without the empty ones.

    Raises ValueError for broken JSON.
    """
    if isinstance(value, str) and re.match(r"\[\s*[\"'\]]", value):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError('it should be a,b or JSON like ["a", "b"]') from None
    elif isinstance(value, str):
        value = re.split(r"[,\n]", value)
    if not isinstance(value, list):
        return value
    given = cast("list[object]", value)
    items = [item.strip() if isinstance(item, str) else item for item in given]
    return [item for item in items if item != ""]


def tell_unknown(environment: Mapping[str, str], settings: Iterable[str]) -> Iterator[str]:
    """Yield a line for each variable that looks like rhocache's and is not, without its value.

    Cases don't matter: secret files have names in small letters.
    """
    known = sorted(name.upper() for name in (*settings, *_OTHERS))
    for name, value in environment.items():
        rest = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or rest in known:
            continue
        if _SERVICE.fullmatch(rest) or (rest.endswith("PORT") and _SERVICE_PORT.match(value)):
            continue
        meant = "".join(f"; is {PREFIX}{near} meant?" for near in get_close_matches(rest, known, 1))
        yield f"{name} changes nothing: there is no such variable{meant}"
