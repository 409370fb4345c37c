"""The outgoing HTTP client, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.base import context


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """A server that echoes the request's headers; ``/silence`` never responds."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = await reader.readuntil(b"\r\n\r\n")
        if b"/silence" in headers:
            await reader.read()  # until the client disconnects
        else:
            status = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            writer.write(status % len(headers) + headers)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_request_id_is_forwarded(app: FastAPI, upstream: str) -> None:
    with context.bind_request_context(request_id="abc"):
        echoed = (await app.state.http.get(upstream)).text.lower()
    assert "x-request-id: abc\r\n" in echoed
    assert "user-agent: " in echoed


async def test_timeouts_are_shortened_to_the_requests_deadline(app: FastAPI, upstream: str) -> None:
    start = time.monotonic()
    with context.bind_request_context(deadline=start + 0.2), pytest.raises(httpx2.TimeoutException):
        await app.state.http.get(f"{upstream}/silence")
    assert time.monotonic() - start < 5
