"""Web pages of others: they must not use a visitor's browser to reach the service.

A browser sends what any page asks it to, to loopback addresses too. It says from which page, in
``Origin``; and where a page has made its own name mean 127.0.0.1 (DNS rebinding), in ``Host``.
"""

import ipaddress
from collections.abc import Collection

READS = frozenset({"GET", "HEAD", "OPTIONS"})
"""What changes nothing. Another host's page cannot see the answers: there are no CORS headers."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def foreign_host(host: str, known: Collection[str]) -> bool:
    """Return whether a ``Host`` header names a machine that a loopback service is not.

    ``known`` are further names, e.g. that of a gateway in front of it.
    """
    name = _name(host)
    return not (is_loopback(name) or name in known)


def foreign_page(method: str, host: str, origins: list[str], site: str) -> bool:
    """Return whether a request that may change something comes from another host's page.

    ``origins`` are the values of ``Origin``, of which programs send none, ``site`` that of
    ``Sec-Fetch-Site``.
    """
    if method in READS:
        return False
    if site not in ("", "same-origin", "none"):
        return True
    return any(origin.partition("://")[2].lower() != host.lower() for origin in origins)


def _name(host: str) -> str:
    """Return the host of a ``Host`` header, without its port and an IPv6 address's brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
