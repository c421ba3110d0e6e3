"""rhocache's REST client: ``from rhocache import Client``."""

from rhocache.client import DEFAULT_URL, Client

__all__ = ["DEFAULT_URL", "Client"]
