"""What a caller may still do, as RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    name: str
    quota: int
    left: int
    window: int | None = None  # seconds; None for a limit that no time lifts
    reset: int | None = None  # seconds until more is left


def rate_limit_headers(limits: Sequence[Limit]) -> dict[str, str]:
    return {
        "RateLimit-Policy": ", ".join(
            _item(each.name, q=each.quota, w=each.window) for each in limits
        ),
        "RateLimit": ", ".join(_item(each.name, r=each.left, t=each.reset) for each in limits),
    }


def _item(name: str, **parameters: int | None) -> str:
    """A string of structured fields (RFC 9651) with its parameters."""
    told = (f";{key}={value}" for key, value in parameters.items() if value is not None)
    return f'"{name}"' + "".join(told)
