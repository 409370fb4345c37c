"""Which addresses this service may connect to when others choose the URL."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from app.platform.base.threads import Threads, track_calls
from app.platform.data.public_addresses import MAX_ADDRESSES, AddressRefused, Guard, resolve

PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "192.0.1.1",
    "100.63.255.255",
    "172.32.0.1",
    "223.255.255.255",
    "2606:4700::1111",
    "::ffff:1.1.1.1",  # mapped
    "64:ff9b::101:101",  # NAT64
]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.170",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # compatible
    "::ffff:127.0.0.1",  # mapped
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # translated
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",  # NAT64 of one's own
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4
    "2002:a9fe:a9fe::1",
    "2002:101:101::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_allowed(address: str) -> None:
    assert Guard().allows(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_of_a_network_of_ours_is_refused_in_every_form(address: str) -> None:
    assert not Guard().allows(ip_address(address))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_a_network_of_ours_can_be_allowed(address: str) -> None:
    guard = Guard(["10.1.0.0/16", "fd00::/64"])
    assert guard.allows(ip_address(address))
    assert not guard.allows(ip_address("10.2.0.1"))


def answering(*addresses: str) -> Guard:
    async def answer(host: str, port: int) -> Sequence[str]:
        return addresses

    return Guard(["10.1.0.0/16"], answer)


@pytest.mark.parametrize(
    ("scheme", "addresses"),
    [
        ("https", ["127.0.0.1"]),
        ("https", ["1.1.1.1", "127.0.0.1"]),
        ("https", []),
        ("http", ["1.1.1.1"]),
        ("http", ["10.1.0.1", "1.1.1.1"]),
    ],
)
async def test_a_host_is_refused_unless_all_its_addresses_may_be_used(
    scheme: str, addresses: list[str]
) -> None:
    with pytest.raises(AddressRefused):
        await answering(*addresses).addresses("example.com", 443, scheme)


async def test_a_host_has_so_many_addresses_and_no_more() -> None:
    many = [f"1.1.1.{n}" for n in range(20)]
    assert await answering(*many).addresses("example.com", 443, "https") == many[:MAX_ADDRESSES]
    assert await answering("10.1.0.1").addresses("a.internal", 80, "http") == ["10.1.0.1"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "017700000001", "localhost", "::1"]
)
async def test_every_spelling_of_loopback_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        await Guard(resolve=resolve).addresses(host, 443, "https")


async def test_a_lookup_that_hangs_is_given_up_and_no_job_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: object, **__: object) -> list[object]:
        loop.call_soon_threadsafe(hangs.set)
        end.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    loop.set_default_executor(Threads(1))
    calls = track_calls()
    lookup = asyncio.create_task(resolve("example.com", 443))
    try:
        async with asyncio.timeout(30):
            await hangs.wait()
        lookup.cancel()
        await asyncio.wait([lookup])
        assert not calls
        await asyncio.to_thread(lambda: None)  # has a thread
    finally:
        end.set()
