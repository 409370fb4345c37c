"""Connections to public addresses alone: the guard against server-side request forgery.

Others choose the URLs that this service calls. A host is resolved once, every one of its addresses
is checked, and the connection goes to an address that was checked: what DNS says afterwards does
not matter. TLS and ``Host`` keep the name of the URL.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore2
import httpx2

from app.platform.data.http_client import closed_at_once

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

# https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast. Listed here, since the
# `is_global` of Python differs between its versions.
NOT_PUBLIC_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata of cloud providers
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
    )
)
# https://www.iana.org/assignments/iana-ipv6-special-registry: outside of 2000::/3, nothing is
# public; of it, these are not either.
PUBLIC_IPV6 = IPv6Network("2000::/3")
NOT_PUBLIC_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address within, of which RFC 7526 has no more use
        "3fff::/20",
    )
)
NAT64 = IPv6Network("64:ff9b::/96")
# Of what a name may have; a list without a bound would be tried address by address.
MAX_ADDRESSES = 4


class AddressRefused(Exception):
    """The host has an address that is not public; the message is for the log of its owner."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} has an address that is not public")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the Internet, and to no network of our own."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_IPV4)
    return address in PUBLIC_IPV6 and not any(address in network for network in NOT_PUBLIC_IPV6)


def destination(address: Address) -> Address:
    """The IPv4 address within a mapped one or one of NAT64, or else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(address.packed[-4:])
    return address


# Of their own: one that hangs is given up with its delivery, and keeps no thread from other jobs.
_lookups = ThreadPoolExecutor(20, "lookup")


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, from the system's resolver."""
    lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_lookups, lookup)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Guard:
    """Decides where to connect. ``allowed``: networks that are not public and may be reached."""

    def __init__(self, allowed: Iterable[str] = (), resolve: Resolve = resolve) -> None:
        self._allowed: list[Network] = [ip_network(network) for network in allowed]
        self._resolve = resolve

    def allows(self, address: Address) -> bool:
        """Whether connections may go to an address."""
        inner = destination(address)
        return is_public(inner) or self.is_own(inner)

    def is_own(self, address: Address) -> bool:
        """Whether an address is in one of the ``allowed`` networks."""
        return any(address.version == n.version and address in n for n in self._allowed)

    async def addresses(self, host: str, port: int, scheme: str) -> list[str]:
        """The addresses of a host, resolved once; raises ``AddressRefused`` if one may not be used.

        ``http`` may be used for addresses of ``allowed`` networks alone.
        """
        found = [ip_address(each) for each in await self._resolve(host, port)]
        secure = scheme == "https"
        if not found or not all(self.allows(a) for a in found):
            raise AddressRefused(host)
        if not secure and not all(self.is_own(destination(a)) for a in found):
            raise AddressRefused(host)
        return [str(address) for address in found[:MAX_ADDRESSES]]


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that the guard has checked."""

    def __init__(self, guard: Guard, scheme: str) -> None:
        self._guard = guard
        self._scheme = scheme
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (of the interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._guard.addresses(host, port, self._scheme)
        for address in addresses[:-1]:
            try:
                return await self._connect(address, port, timeout, local_address)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._connect(addresses[-1], port, timeout, local_address)

    async def _connect(
        self, address: str, port: int, seconds: float | None, local_address: str | None
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(address, port, seconds, local_address)
        try:
            stream.get_extra_info("socket")
        except AttributeError as error:
            if not closed_at_once(error):
                raise
            raise httpcore2.ConnectError("The peer closed the connection.") from error
        return stream


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """One connection for one request, to an address that the guard has checked."""

    def __init__(self, guard: Guard, scheme: str, certificates: ssl.SSLContext) -> None:
        super().__init__(verify=certificates)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=certificates,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=GuardedBackend(guard, scheme),
        )
