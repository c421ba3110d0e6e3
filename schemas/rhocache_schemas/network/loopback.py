"""This machine's own addresses, which no proxy leads to."""

from ipaddress import ip_address


def is_loopback(host: str | None) -> bool:
    """Whether a host, by name or by address (brackets or not), is this machine by itself."""
    name = (host or "").strip("[]").rstrip(".").lower()
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
