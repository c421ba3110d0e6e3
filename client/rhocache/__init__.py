"""rhocache's REST client: ``from rhocache import Client``, or ``AsyncClient``."""

from rhocache.async_client import AsyncClient
from rhocache.client import DEFAULT_URL, Client

__all__ = ["DEFAULT_URL", "AsyncClient", "Client"]
