"""The outgoing client, against real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.base import context


@pytest.fixture
async def peer() -> AsyncIterator[str]:
    """A server that answers with the head of the request, after the seconds that its path names."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(float(head.split()[1].removeprefix(b"/") or 0))
        body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(head)
        writer.write(body + head)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_requests_id_goes_along(app: FastAPI, peer: str) -> None:
    with context.bind_request_context(request_id="abc"):
        seen = (await app.state.http.get(peer)).text.lower()
    assert "x-request-id: abc\r\n" in seen
    assert "user-agent: " in seen


async def test_nobody_waits_longer_than_the_caller_will(app: FastAPI, peer: str) -> None:
    start = time.monotonic()
    with context.bind_request_context(deadline=start + 0.2), pytest.raises(httpx2.TimeoutException):
        await app.state.http.get(f"{peer}/30")
    assert time.monotonic() - start < 5
