"""Webhooks: which URLs may be told of a job's end, and how that is signed."""

import base64
import hashlib
import hmac

import httpx

from rhocache_schemas.errors import WebhookNotAllowed
from rhocache_schemas.network import is_loopback
from rhocache_service.http.addresses import host_matches
from rhocache_service.settings import Settings


def check_target(url: str, settings: Settings) -> None:
    """Raise WebhookNotAllowed for a URL that is not https, or of no host that was allowed.

    On this machine http will do.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WebhookNotAllowed(f"webhook {url!r} is not a URL: {error}") from error
    plain = parsed.scheme == "http" and is_loopback(parsed.host)
    if not (plain or parsed.scheme == "https") or parsed.userinfo:
        raise WebhookNotAllowed(f"webhook {url!r} should be https://HOST/..., without a password")
    host = parsed.netloc.decode()
    if not any(host_matches(host, allowed) for allowed in settings.webhook_host):
        allowed = ", ".join(settings.webhook_host) or "none"
        raise WebhookNotAllowed(f"webhooks may not go to {host!r}; allowed: {allowed}")


def signed_headers(id_: str, at: int, body: str, secret: str) -> dict[str, str]:
    """Return the headers of Standard Webhooks; ``at`` is a Unix second, ``secret`` whsec_BASE64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{id_}.{at}.{body}".encode(), hashlib.sha256)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
