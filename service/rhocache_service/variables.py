"""Reads environment variables as compose, Helm and Kubernetes set them."""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from rhocache_schemas.variables import SERVICE_PORT


def without_foreign(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out settings that are set to nothing, and a port that is a Kubernetes Service's."""
    stripped = {
        name: value.strip() if isinstance(value, str) else value for name, value in given.items()
    }
    port = stripped.get("port")
    if isinstance(port, str) and SERVICE_PORT.match(port):
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
