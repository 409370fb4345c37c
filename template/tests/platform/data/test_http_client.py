"""The outgoing HTTP client, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing, suppress

import httpx2
import pytest

from app.platform.base import context
from app.platform.data.http_client import create_client, matches_host
from app.settings import Settings
from tests.closing import resetting_server

Call = Callable[[httpx2.AsyncClient, str], Awaitable[object]]


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """A server that echoes the request's headers.

    ``/silence`` never responds, ``/drip`` never ends, ``/redirect`` leads to another name.
    """

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            headers = await reader.readuntil(b"\r\n\r\n")
            if b"/silence" in headers:
                await reader.read()  # until the client disconnects
            elif b"/drip" in headers:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b"x")
                    await asyncio.sleep(0.02)
            elif b"/redirect" in headers:
                port = writer.get_extra_info("sockname")[1]
                location = f"Location: http://127.0.0.2:{port}/\r\n".encode()
                writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + location + b"\r\n")
            else:
                status = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                writer.write(status % len(headers) + headers)

    server = await asyncio.start_server(respond, "0.0.0.0", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def get(client: httpx2.AsyncClient, url: str) -> None:
    await client.get(url)


async def stream(client: httpx2.AsyncClient, url: str) -> None:
    async with client.stream("GET", url) as response:
        async for _ in response.aiter_raw():
            pass


async def get_with_own_timeout(client: httpx2.AsyncClient, url: str) -> None:
    await client.get(url, timeout=0.2)


async def get_with_own_total(client: httpx2.AsyncClient, url: str) -> None:
    extensions = {"total_timeout": 0.2}
    await client.get(url, timeout=60, extensions=extensions)


async def get_in_request(client: httpx2.AsyncClient, url: str) -> None:
    """Without any time-out but the deadline of the current request."""
    with context.bind_request_context(deadline=time.monotonic() + 0.2):
        await client.get(url, timeout=None)


@pytest.mark.parametrize("path", ["/drip", "/silence"])
@pytest.mark.parametrize(
    ("call", "total"),
    [
        (get, 0.2),
        (stream, 0.2),
        (get_with_own_timeout, 60),
        (get_with_own_total, 60),
        (get_in_request, 60),
    ],
)
async def test_a_request_ends_at_its_deadline_however_its_peer_behaves(
    settings: Settings, upstream: str, call: Call, total: float, path: str
) -> None:
    changes = {"http_timeout": total, "http_read_timeout": 60}
    async with create_client(settings.model_copy(update=changes)) as client, asyncio.timeout(5):
        start = time.monotonic()
        with pytest.raises(httpx2.TimeoutException):
            await call(client, upstream + path)
        assert time.monotonic() - start < 2


async def test_each_phase_has_a_timeout_of_its_own(settings: Settings, upstream: str) -> None:
    def client(**changes: float) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
        patient = dict.fromkeys(("http_timeout", "http_connect_timeout", "http_read_timeout"), 60)
        return create_client(settings.model_copy(update={**patient, **changes}))

    async with asyncio.timeout(30):
        async with client(http_read_timeout=0.1) as impatient:
            with pytest.raises(httpx2.ReadTimeout):
                await impatient.get(f"{upstream}/silence")
        async with client(http_connect_timeout=0.1, http_max_connections=1) as impatient:
            with pytest.raises(httpx2.ConnectTimeout):  # no TLS there
                await impatient.get(f"{upstream.replace('http', 'https')}/silence")
            async with impatient.stream("GET", f"{upstream}/drip", timeout=60):
                with pytest.raises(httpx2.PoolTimeout):
                    await impatient.get(upstream)


async def test_only_services_of_ours_are_told_the_request_id(
    settings: Settings, upstream: str
) -> None:
    changed = settings.model_copy(update={"request_id_hosts": ["127.0.0.1"]})
    async with create_client(changed) as client:
        with context.bind_request_context(request_id="abc"):
            ours = (await client.get(upstream)).text.lower()
            theirs = await client.get(upstream.replace("127.0.0.1", "127.0.0.2"))
            redirected = await client.get(f"{upstream}/redirect", follow_redirects=True)
    assert "x-request-id: abc\r\n" in ours
    assert "user-agent: " in ours
    for response in (theirs, redirected):
        assert response.status_code == 200
        assert "x-request-id" not in response.text.lower()


def test_a_pattern_stands_for_subdomains_only() -> None:
    patterns = ["localhost", "*.internal"]
    assert matches_host("localhost", patterns)
    assert matches_host("billing.internal", patterns)
    assert not matches_host("internal", patterns)
    assert not matches_host("billing.internal.example.com", patterns)
    assert matches_host("example.com", ["*"])


async def test_a_peer_that_closes_each_connection_is_a_transport_error(settings: Settings) -> None:
    async with create_client(settings) as client, resetting_server() as address:
        for _ in range(50):
            with pytest.raises(httpx2.TransportError):
                await client.get(f"http://{address}/")
