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
    """A server that answers with the head of the request; never, where the path is /silence."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/silence" in head:
            await reader.read()  # until the client has gone
        else:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            writer.write(answer % len(head) + head)
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
        await app.state.http.get(f"{peer}/silence")
    assert time.monotonic() - start < 5
