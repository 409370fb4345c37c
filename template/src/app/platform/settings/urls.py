"""Hosts, networks and URLs in settings: whether a value is one."""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit


def split_url(value: str, *schemes: str) -> SplitResult | None:
    """The parts of a URL with a host and one of ``schemes``; ``None`` for any other value."""
    try:
        url = urlsplit(value)
        host = host_of(url).removesuffix(".")
        valid = url.scheme in schemes and is_host(host) and "*" not in host and url.port != 0
    except ValueError:  # of the port, or of brackets
        return None
    return url if valid else None


def host_of(url: SplitResult) -> str:
    """The host, with the brackets of an IPv6 address."""
    host = url.hostname or ""
    return f"[{host}]" if ":" in host else host


def is_host(text: str) -> bool:
    """Whether ``text`` is what a ``Host`` header holds, perhaps after ``*.``, without a port."""
    if text.startswith("[") and text.endswith("]"):
        return is_network(text[1:-1]) and "/" not in text
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    return re.fullmatch(rf"(\*\.)?{label}(\.{label})*", text) is not None


def is_network(text: str) -> bool:
    """Whether ``text`` is an IP address or a network in CIDR notation."""
    try:
        ip_network(text) if "/" in text else ip_address(text)
    except ValueError:
        return False
    return True
